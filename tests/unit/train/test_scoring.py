"""Scoring: every token once, with context; means with their error."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.core.errors import SettingsError
from tuition.data.rows import IGNORED
from tuition.model.context import DenseContext
from tuition.model.decoder import Decoder
from tuition.runtime.device import Precision
from tuition.spec.shape import ModelShape
from tuition.train.scoring import (
    DocumentScore,
    _windows,
    bits_per_byte,
    nats_per_token,
    score_documents,
    score_tokens,
)

FLOAT32 = Precision(torch.float32, "a test")


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
    for inputs, targets in _windows(document, window, stride):
        assert len(inputs) == len(targets) <= window
        kept = targets != IGNORED
        assert (targets[kept] == inputs[kept] + 1).all()
        scored += targets[kept].tolist()
    assert scored == list(range(1, length))


def test_context_is_never_shorter_than_the_stride_leaves() -> None:
    for inputs, targets in list(_windows(np.arange(101), 16, 4))[1:]:
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
    counts = np.full(20, 2)
    scores = score_documents(model, documents, counts, window=32, stride=16, precision=FLOAT32, max_bytes=302)
    assert [score.num_tokens for score in scores] == pytest.approx([50, 100], abs=1)
    assert sum(score.num_bytes for score in scores) == pytest.approx(302, abs=4)


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
