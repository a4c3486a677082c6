"""Samples: the kept keys and values change nothing, seeds repeat, ends are respected."""

from dataclasses import replace

import pytest
import torch

from tuition.model.context import DenseContext
from tuition.model.decoder import Decoder
from tuition.runtime.device import Precision
from tuition.spec.shape import ModelShape
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe
from tuition.train.samples import Drawing, GrowingContext, draw, write_sample

FLOAT32 = Precision(torch.float32, "a test")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["a rose is a rose is a rose\n" * 5], 270)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Decoder:
    torch.manual_seed(0)
    return Decoder(ModelShape(tokenizer.vocab_size, 16, 2, 2, 1, 8, 24, 32)).initialize(std=0.3)


def sample(model: Decoder, tokenizer: Tokenizer, prompt: str = "a rose", **changes) -> str:
    how = replace(Drawing(12, temperature=1.0, top_p=1.0), **changes)
    return write_sample(model, tokenizer, prompt, how, FLOAT32)


def test_token_by_token_is_the_same_as_all_at_once(model: Decoder) -> None:
    """float32: only the order of sums differs."""
    ids = torch.randint(0, 200, (1, 10))
    context = GrowingContext(torch.device("cpu"))
    with torch.no_grad():
        whole = model(ids, DenseContext.of_length(10))
        pieces = [
            model(ids[:, at], context.begin(len(at))) for at in ([0, 1, 2, 3], [4], [5, 6], [7], [8], [9])
        ]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-5)


def test_a_seed_repeats_and_leaves_the_process_alone(model: Decoder, tokenizer: Tokenizer) -> None:
    before = torch.get_rng_state()
    assert sample(model, tokenizer, seed=3) == sample(model, tokenizer, seed=3)
    assert sample(model, tokenizer, seed=3) != sample(model, tokenizer, seed=4)
    assert torch.equal(before, torch.get_rng_state())


def test_the_prompt_leads_and_the_context_is_the_limit(model: Decoder, tokenizer: Tokenizer) -> None:
    text = sample(model, tokenizer, num_tokens=1000, temperature=0.0)
    assert text.startswith("a rose")
    assert text == sample(model, tokenizer, num_tokens=32, temperature=0.0)


def test_an_empty_prompt_begins_a_document(model: Decoder, tokenizer: Tokenizer) -> None:
    assert isinstance(sample(model, tokenizer, prompt=""), str)


def test_temperature_zero_takes_the_likeliest_and_top_p_drops_the_tail() -> None:
    logits = torch.tensor([0.0, 5.0, 4.0, -9.0])
    generator = torch.Generator().manual_seed(0)
    assert draw(logits, 0.0, 1.0, generator) == 1
    drawn = {draw(logits, 1.0, 0.9, generator) for _ in range(200)}
    assert drawn == {1, 2}  # 0.73 and 0.27: the second is needed to reach the share
