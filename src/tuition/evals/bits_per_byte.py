"""Bits per byte and perplexity of text, with their uncertainty over documents.

In: a model as the engine serves it, in any precision, its tokenizer, token ids of documents.  Out:
`Evaluation`. The windows and the arithmetic of the score are those of training (`train/scoring`).
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from tuition.core.errors import ModelError
from tuition.core.progress import Progress, SilentProgress
from tuition.core.records import Score
from tuition.data.rows import IGNORED
from tuition.data.shards import TokenSet
from tuition.engine.batch import Runner, StepBatch
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.train.scoring import (
    TokenBytes,
    beginnings,
    bits_per_byte,
    nats_per_token,
    score_texts,
    window_method,
)

STEP_TOKENS = 512
"""Most tokens that are computed in one step of the runner."""

STEP_LOGIT_BYTES = 2**26
"""Most bytes of the logits of a step: large vocabularies get shorter steps, since no memory is planned for
them."""

_ROWS_AT_ONCE = 32
"""Of logits, in one pass of the softmax: what stays in a core's cache."""


@dataclass(frozen=True)
class Windows:
    """How a document is cut for scoring; each token is scored once, by the window in which it is new."""

    length: int | None = None
    """Tokens per forward pass; the model's context at most, and by default."""
    stride: int | None = None
    """New tokens per window, half of it by default; less is slower and gives each token more context."""

    def within(self, context_length: int) -> tuple[int, int]:
        """Length and stride for a model of this context."""
        length = min(self.length or context_length, context_length)
        return length, self.stride or max(1, length // 2)


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts text."""

    bits_per_byte: Score
    perplexity: float
    """Of a token: e to the power of nats per token."""
    window: int
    """Tokens of context that a window had."""
    titles: tuple[str, ...]
    """Documents that were scored, the first hundred."""


def evaluate(
    runner: Runner,
    tokenizer: Tokenizer,
    text: TokenSet,
    *,
    task: str = "bits per byte",
    windows: Windows = Windows(),
    max_bytes: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score every byte of `text` once, or about `max_bytes` of them.

    Raises: SettingsError, ModelError.
    """
    window, stride = windows.within(runner.shape.context_length)
    tokens = TokenBytes.of(tokenizer)
    whole = [text.document(index) for index in range(text.info.num_documents)]
    texts = beginnings(whole, tokens, max_bytes)
    scores = []

    def nats(inputs: Tensor, targets: Tensor) -> float:
        return _served_nats(runner, inputs.numpy(), targets.numpy())

    with (progress or SilentProgress()).task("evaluate", sum(map(tokens.num_bytes, texts)), "B") as bar:
        for score in score_texts(nats, texts, tokens, window=window, stride=stride):
            scores.append(score)
            bar.advance(score.num_bytes)
    score = bits_per_byte(scores, task, window_method(window, stride, runner.name))
    return Evaluation(score, math.exp(nats_per_token(scores)), window, text.info.titles)


def most_rows(context_length: int) -> int:
    """Whole contexts that are computed at once: the cache need hold no more."""
    return max(1, STEP_TOKENS // context_length)


def _served_nats(runner: Runner, inputs: np.ndarray, targets: np.ndarray) -> float:
    """`Nats` by a runner: (batch, seq) each. Raises: ModelError for logits that are not finite."""
    blocks_each = math.ceil(inputs.shape[1] / runner.block_size)
    at_once = max(1, min(STEP_TOKENS, runner.num_blocks // blocks_each))
    return sum(
        _nats_of_rows(runner, inputs[begin : begin + at_once], targets[begin : begin + at_once])
        for begin in range(0, len(inputs), at_once)
    )


def _nats_of_rows(runner: Runner, inputs: np.ndarray, targets: np.ndarray) -> float:
    """Of rows that are in the cache together, some columns of all of them in each step."""
    num_rows, width = inputs.shape
    num_blocks = math.ceil(width / runner.block_size)
    tables = np.arange(num_rows * num_blocks, dtype=np.int32).reshape(num_rows, num_blocks)
    most_tokens = min(STEP_TOKENS, STEP_LOGIT_BYTES // (4 * runner.shape.vocab_size))
    columns = max(1, most_tokens // num_rows)
    total = 0.0
    for begin in range(0, width, columns):
        end = min(width, begin + columns)
        wanted = targets[:, begin:end].ravel()
        rows = np.flatnonzero(wanted != IGNORED)
        logits = runner.forward(
            StepBatch(
                token_ids=np.ascontiguousarray(inputs[:, begin:end].ravel(), np.int32),
                positions=np.tile(np.arange(begin, end, dtype=np.int32), num_rows),
                starts=np.arange(num_rows + 1, dtype=np.int32) * np.int32(end - begin),
                context_lengths=np.full(num_rows, begin, np.int32),
                block_tables=np.ascontiguousarray(tables[:, : math.ceil(end / runner.block_size)]),
                logit_rows=rows.astype(np.int32),
            )
        )
        total += _cross_entropy(logits, wanted[rows])
    if not math.isfinite(total):
        way_out = "score it with --precision float32, and check its weights with tuition models show --check"
        raise ModelError(runner.name, "gives logits that are not finite", way_out=way_out)
    return total


def _cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    """Sum of negative log-likelihoods: logits (rows, vocab) float32, targets (rows,)."""
    total = 0.0
    for begin in range(0, len(targets), _ROWS_AT_ONCE):
        part, ids = logits[begin : begin + _ROWS_AT_ONCE], targets[begin : begin + _ROWS_AT_ONCE]
        shifted = part - part.max(axis=1, keepdims=True)
        chosen = shifted[np.arange(len(ids)), ids].astype(np.float64)
        sums = np.exp(shifted, out=shifted).sum(axis=1, dtype=np.float64)
        total += float((np.log(sums) - chosen).sum())
    return total
