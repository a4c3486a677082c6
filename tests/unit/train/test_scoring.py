"""Scoring: every token once, with context; means with their error."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.core.errors import SettingsError
from tuition.data.corpus import prepare_corpus
from tuition.data.rows import IGNORED
from tuition.data.settings import DataSettings
from tuition.model.context import DenseContext
from tuition.model.decoder import Decoder
from tuition.runtime.device import Precision
from tuition.spec.shape import ModelShape
from tuition.tokenizer.training import train_bpe
from tuition.train.scoring import (
    DocumentScore,
    TokenBytes,
    beginnings,
    bits_per_byte,
    nats_per_token,
    score_documents,
    score_tokens,
    windows,
)

FLOAT32 = Precision(torch.float32, "a test")
HOW: dict[str, Any] = {"window": 32, "stride": 16, "precision": FLOAT32}


@pytest.fixture(scope="module")
def model() -> Decoder:
    torch.manual_seed(0)
    return Decoder(ModelShape(20, 16, 2, 2, 1, 8, 24, 64)).initialize(std=0.2)


@settings(deadline=None)
@given(st.integers(2, 200), st.integers(2, 40), st.integers(1, 40))
def test_every_token_but_the_first_is_scored_exactly_once(length: int, window: int, stride: int) -> None:
    stride = min(stride, window)
    document = np.arange(length)
    scored: list[int] = []
    for inputs, targets in windows(document, window, stride):
        assert len(inputs) == len(targets) <= window
        kept = targets != IGNORED
        assert (targets[kept] == inputs[kept] + 1).all()
        scored += targets[kept].tolist()
    assert scored == list(range(1, length))


def test_context_is_never_shorter_than_the_stride_leaves() -> None:
    for inputs, targets in list(windows(np.arange(101), 16, 4))[1:]:
        assert (targets == IGNORED).sum() == len(inputs) - 4 == 12


@pytest.mark.parametrize("stride", [0, 65])
def test_a_stride_that_skips_tokens_is_refused(model: Decoder, stride: int) -> None:
    with pytest.raises(SettingsError, match="stride"):
        score_tokens(model, np.arange(20), 64, stride, FLOAT32)


def test_one_window_scores_as_the_decoder_itself(model: Decoder) -> None:
    document = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    ids = torch.from_numpy(document)[None]
    with torch.no_grad():
        logits = model.logits(model(ids[:, :-1], DenseContext.of_length(9)))
    wanted = torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum")
    assert score_tokens(model, document, 64, 32, FLOAT32) == pytest.approx(float(wanted), rel=1e-5)


def test_a_limit_takes_an_equal_share_of_each_document(model: Decoder) -> None:
    documents = [np.ones(101, dtype=np.int64), np.ones(201, dtype=np.int64)]
    tokens = plain_tokens()
    scores = score_documents(model, beginnings(documents, tokens, 302), tokens, **HOW)
    assert [score.num_tokens for score in scores] == pytest.approx([50, 100], abs=1)
    assert sum(score.num_bytes for score in scores) == pytest.approx(302, abs=4)


def plain_tokens(marks: frozenset[int] = frozenset({0})) -> TokenBytes:
    """20 ids of two bytes each."""
    return TokenBytes(np.full(20, 2), np.full(20, 2), marks)


def test_marks_are_read_and_never_scored(model: Decoder) -> None:
    """A document costs the same with a mark at its end and without: only its text is scored."""
    text = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
    plain, ended = np.array([0, *text]), np.array([0, *text, 7])
    (wanted,) = score_documents(model, [plain], plain_tokens(), **HOW)
    (found,) = score_documents(model, [ended], plain_tokens(frozenset({0, 7})), **HOW)
    assert found == wanted
    assert (found.num_tokens, found.num_bytes) == (10, 20)


def test_the_order_of_documents_changes_no_score(model: Decoder, tmp_path: Path) -> None:
    """The prepared text has one end mark more than its first documents have, behind the last one."""
    texts = ["a rose is a rose\n" * 20, "the king and the queen\n" * 9]
    tokenizer = train_bpe(texts, 262)
    wide = Decoder(ModelShape(tokenizer.vocab_size, 16, 2, 2, 1, 8, 24, 64)).initialize(std=0.2)
    found = []
    for order in (texts, texts[::-1]):
        folder = tmp_path / str(len(found))
        folder.mkdir()
        for number, text in enumerate(order):
            (folder / f"{number}.txt").write_text(text)
        (folder / "held.txt").write_text("something else\n" * 9)
        data = DataSettings(paths=(folder,), heldout=("held.txt",), num_workers=1)
        taught = prepare_corpus(data, tokenizer, tmp_path / "data").train
        assert taught.info.num_documents == 2
        documents = [taught.document(index) for index in range(2)]
        scores = score_documents(wide, documents, TokenBytes.of(tokenizer), **HOW)
        assert sum(score.num_bytes for score in scores) == sum(map(len, texts))
        found.append(bits_per_byte(scores, "a task", "a method").value)
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_the_bytes_of_tokens_sum_to_the_text() -> None:
    tokenizer, text = train_bpe(["a rose is a rose is a rose\n" * 5], 270), "a rosé is a rose\n"
    tokens = TokenBytes.of(tokenizer)
    assert tokenizer.bos_id is not None
    assert tokens.num_bytes(np.array([tokenizer.bos_id, *tokenizer.encode(text)])) == len(text.encode())
    assert tokens.inside[tokenizer.bos_id] == 0
    assert tokenizer.bos_id in tokens.marks


def test_bits_per_byte_of_known_scores() -> None:
    scores = [DocumentScore(10 * math.log(2), 5, 10), DocumentScore(60 * math.log(2), 15, 20)]
    found = bits_per_byte(scores, "a task", "a method")
    assert found.value == pytest.approx(70 / 30)
    assert (found.num_bytes, found.num_items, found.num_tokens) == (30, 2, 20)
    residuals = (10 - 70 / 30 * 10) ** 2 + (60 - 70 / 30 * 20) ** 2
    assert found.stderr == pytest.approx(math.sqrt(2 * residuals) / 30)
    assert nats_per_token(scores) == pytest.approx(70 * math.log(2) / 20)


def test_a_single_document_has_no_error_rather_than_zero() -> None:
    assert bits_per_byte([DocumentScore(1.0, 1, 1)], "a task", "a method").stderr is None
