"""Bits per byte of a model with known predictions."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tuition.core.progress import SilentProgress, Task
from tuition.data.corpus import Corpus, prepare_corpus
from tuition.data.settings import DataSettings
from tuition.evals.bits_per_byte import evaluate
from tuition.model.decoder import Decoder
from tuition.runtime.device import Precision
from tuition.spec.shape import ModelShape
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe


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


def test_a_model_that_knows_nothing_pays_the_logarithm_of_its_vocabulary(
    tokenizer: Tokenizer, corpus: Corpus
) -> None:
    precision = Precision(torch.float32, "a test")
    found = evaluate(blank(tokenizer), tokenizer, corpus.heldout, precision=precision)
    assert found.perplexity == pytest.approx(tokenizer.vocab_size, rel=1e-5)
    # one mark stands before each document and one behind the last: they are not scored
    num_scored = corpus.heldout.num_tokens - corpus.heldout.info.num_documents - 1
    expected = num_scored * math.log2(tokenizer.vocab_size) / corpus.heldout_bytes
    assert found.bits_per_byte.value == pytest.approx(expected, rel=1e-5)
    assert found.bits_per_byte.num_bytes == corpus.heldout_bytes
    assert found.bits_per_byte.num_items == 2
    assert found.bits_per_byte.stderr is not None


def test_a_smaller_stride_never_scores_fewer_bytes(tokenizer: Tokenizer, corpus: Corpus) -> None:
    model = Decoder(ModelShape(tokenizer.vocab_size, 16, 1, 2, 1, 8, 16, 32)).initialize()
    for stride in (1, 7, 32):
        found = evaluate(model, tokenizer, corpus.heldout, stride=stride)
        assert found.bits_per_byte.num_bytes == corpus.heldout_bytes
    assert evaluate(model, tokenizer, corpus.heldout).bits_per_byte.value == pytest.approx(
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
        blank(tokenizer), tokenizer, corpus.heldout, max_bytes=max_bytes, progress=progress
    ).bits_per_byte
    assert progress.done == progress.total == found.num_bytes
    assert (found.num_bytes < corpus.heldout_bytes) is (max_bytes == 100)
