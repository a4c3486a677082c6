"""Bits per byte of a model with known predictions, in every precision that is served."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from tuition.core.errors import ModelError
from tuition.core.progress import SilentProgress, Task
from tuition.core.workspace import open_workspace
from tuition.data.corpus import Corpus, prepare_corpus
from tuition.data.settings import DataSettings
from tuition.engine.engine import Engine
from tuition.engine.settings import EngineSettings
from tuition.engine.torch_runner import TorchRunner
from tuition.evals.bits_per_byte import Windows, evaluate
from tuition.model.decoder import Decoder
from tuition.model.save import save_model
from tuition.runtime.device import Precision
from tuition.spec.shape import ModelShape
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe
from tuition.train.scoring import TokenBytes, bits_per_byte, score_documents

Bits = Literal["float32", "bf16", "int8", "int4"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["to be or not to be, that is the question\n" * 20], 280)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(6):
        (folder / f"{number}.txt").write_text(f"to be or not {number} to be\n" * (20 + number))
    settings = DataSettings(paths=(folder,), heldout=("0.txt", "1.txt"), num_workers=1)
    return prepare_corpus(settings, tokenizer, folder / "data")


def blank(tokenizer: Tokenizer) -> Decoder:
    """All weights zero: every token is equally likely."""
    model = Decoder(ModelShape(tokenizer.vocab_size, 16, 1, 2, 1, 8, 16, 32))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    return model


def torch_runner(model: Decoder, num_blocks: int = 64) -> TorchRunner:
    return TorchRunner(model, EngineSettings(precision="float32", block_size=4), num_blocks=num_blocks)


def random_model(tokenizer: Tokenizer) -> Decoder:
    torch.manual_seed(0)
    return Decoder(ModelShape(tokenizer.vocab_size, 64, 2, 4, 2, 16, 96, 32)).initialize()


def test_a_model_that_knows_nothing_pays_the_logarithm_of_its_vocabulary(
    tokenizer: Tokenizer, corpus: Corpus
) -> None:
    found = evaluate(torch_runner(blank(tokenizer)), tokenizer, corpus.heldout)
    assert found.perplexity == pytest.approx(tokenizer.vocab_size, rel=1e-5)
    # one mark stands before each document and one behind the last: they are not scored
    num_scored = corpus.heldout.num_tokens - corpus.heldout.info.num_documents - 1
    expected = num_scored * math.log2(tokenizer.vocab_size) / corpus.heldout_bytes
    assert found.bits_per_byte.value == pytest.approx(expected, rel=1e-5)
    assert found.bits_per_byte.num_bytes == corpus.heldout_bytes
    assert found.bits_per_byte.num_items == 2
    assert found.bits_per_byte.stderr is not None


@pytest.mark.parametrize("window", [1, 5, 32])
@pytest.mark.parametrize("num_blocks", [8, 64])
def test_what_is_served_gets_the_score_of_training(
    tokenizer: Tokenizer, corpus: Corpus, window: int, num_blocks: int
) -> None:
    """Same windows, same arithmetic: float32 differs in the order of sums alone."""
    model, text = random_model(tokenizer), corpus.heldout
    documents = [text.document(index) for index in range(text.info.num_documents)]
    stride, precision = max(1, window // 2), Precision(torch.float32, "a test")
    tokens = TokenBytes.of(tokenizer)
    scores = score_documents(model, documents, tokens, window=window, stride=stride, precision=precision)
    wanted = bits_per_byte(scores, "t", "m")
    found = evaluate(torch_runner(model, num_blocks), tokenizer, text, windows=Windows(window)).bits_per_byte
    assert found.value == pytest.approx(wanted.value, rel=1e-5)
    assert found.stderr == pytest.approx(wanted.stderr, rel=1e-3)
    assert (found.num_bytes, found.num_tokens) == (wanted.num_bytes, wanted.num_tokens)


@pytest.mark.parametrize("precision", ["float32", "bf16", "int8", "int4"])
def test_every_precision_is_scored_as_its_engine_computes_it(
    tmp_path: Path,
    tokenizer: Tokenizer,
    corpus: Corpus,
    precision: Literal["float32", "bf16", "int8", "int4"],
) -> None:
    """The log-probabilities that the engine gives for a prompt, summed, are the score to the last digits."""
    pytest.importorskip("tuition_kernels", reason="tuition_kernels is not installed")
    model = random_model(tokenizer)
    save_model(tmp_path / "model", model, model.shape, tokenizer, dtype="float32")
    settings = EngineSettings(precision=precision, runner="native", threads=1)
    workspace = open_workspace(tmp_path / "home")
    ids = [int(token) for token in corpus.heldout.document(0)[:31]]
    with Engine(tmp_path / "model", settings=settings, workspace=workspace) as engine:
        (reply,) = engine.generate([ids], max_tokens=1, prompt_logprobs=0)
        text = replace(corpus.heldout, document_starts=np.array([0]), tokens=np.array(ids))
        text = replace(text, info=replace(text.info, num_documents=1, num_tokens=len(ids)))
        found = evaluate(engine.runner, tokenizer, text)
        exact = evaluate(torch_runner(model), tokenizer, text).bits_per_byte
    assert reply.prompt_logprobs is not None
    wanted = -sum(score.logprob for score in reply.prompt_logprobs if score.logprob is not None)
    num_tokens, score = len(ids) - 1, found.bits_per_byte
    assert math.log(found.perplexity) * num_tokens == pytest.approx(wanted, rel=1e-5)
    assert precision in score.method
    # rounding: float32 only in the order of sums, four bits in the first digits of weights
    allowed = {"float32": 1e-6, "bf16": 2e-3, "int8": 2e-3, "int4": 5e-2}[precision]
    assert score.value == pytest.approx(exact.value, rel=allowed)
    assert (score.value == pytest.approx(exact.value, rel=1e-6)) == (precision == "float32")


def test_weights_that_give_no_numbers_are_named(tokenizer: Tokenizer, corpus: Corpus) -> None:
    model = random_model(tokenizer)
    torch.nn.init.constant_(model.embedding.weight, float("nan"))
    with pytest.raises(ModelError, match="not finite; score it with --precision float32"):
        evaluate(torch_runner(model), tokenizer, corpus.heldout)


def test_a_smaller_stride_never_scores_fewer_bytes(tokenizer: Tokenizer, corpus: Corpus) -> None:
    runner = torch_runner(random_model(tokenizer))
    for stride in (1, 7, 32):
        found = evaluate(runner, tokenizer, corpus.heldout, windows=Windows(stride=stride))
        assert found.bits_per_byte.num_bytes == corpus.heldout_bytes
    assert evaluate(runner, tokenizer, corpus.heldout).bits_per_byte.value == pytest.approx(
        found.bits_per_byte.value, rel=0.05
    )


class Counted(SilentProgress):
    """How much was to do, and how much was done."""

    def __init__(self) -> None:
        self.total, self.done = 0.0, 0.0

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done += amount

    @contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        self.total = total or 0.0
        yield self


@pytest.mark.parametrize("max_bytes", [None, 100, 10**9])
def test_progress_ends_with_all_of_what_is_scored(
    tokenizer: Tokenizer, corpus: Corpus, max_bytes: int | None
) -> None:
    progress = Counted()
    found = evaluate(
        torch_runner(blank(tokenizer)), tokenizer, corpus.heldout, max_bytes=max_bytes, progress=progress
    ).bits_per_byte
    assert progress.done == progress.total == found.num_bytes
    assert (found.num_bytes < corpus.heldout_bytes) is (max_bytes == 100)
