"""Score text with a model: every token once, with as much context as the window allows.

In: a decoder and token ids of documents.  Out: nats per document. `evals` turns them into scores; a
training run uses them for its evaluations.
Windows overlap: each begins `window - stride` tokens before the first token it scores, so that only
tokens at the start of a document have a short context. Source: the strided perplexity of GPT-2's evaluation.
The marks that begin and end a document are input and never scored, because they represent no text and not
every tokenizer has both. The score of a text therefore depends neither on the order of the documents nor on
the marks of the tokenizer.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import torch
from torch import Tensor

from tuition.core.errors import SettingsError, ShapeError
from tuition.core.records import Score
from tuition.data.rows import IGNORED
from tuition.model.decoder import Decoder
from tuition.runtime.device import Precision
from tuition.runtime.thread_pool import NO_POOL, ThreadPool
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.train.attention import training_context
from tuition.train.losses import token_losses

HELDOUT_TASK = "heldout bits per byte"
"""Of the part that the model's own training held out."""

TOKENS_AT_ONCE = 2_048
"""In one forward pass: enough to keep matrix units busy, and little enough to stay in a core's cache."""


Nats = Callable[[Tensor, Tensor], float]
"""Sum of negative log-likelihoods of targets (batch, seq), IGNORED ones apart, behind inputs (batch, seq)."""


@dataclass(frozen=True, slots=True)
class DocumentScore:
    """The score of one document."""

    nats: float
    """Sum of negative log-likelihoods."""
    num_tokens: int
    num_bytes: int
    """UTF-8 bytes that the scored tokens stand for."""


@dataclass(frozen=True)
class TokenBytes:
    """What each token id of a tokenizer stands for."""

    inside: np.ndarray
    """UTF-8 bytes that each id adds inside of a text, (vocab,); 0 for special tokens."""
    first: np.ndarray
    """The same for the first token of a text, where some tokenizers drop a space."""
    marks: frozenset[int]
    """Ids that begin or end a document."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        specials, ids = tokenizer.special_ids, range(tokenizer.vocab_size)
        counts = [
            [0 if token in specials else len(tokenizer.pieces.of(token, at_start)) for token in ids]
            for at_start in (False, True)
        ]
        begin = () if tokenizer.bos_id is None else (tokenizer.bos_id,)
        return cls(np.asarray(counts[0]), np.asarray(counts[1]), frozenset((*begin, *tokenizer.eos_ids)))

    def text_of(self, document: np.ndarray) -> np.ndarray:
        """A document as it is scored: its first mark, and its text without the mark that ends it."""
        end = len(document)
        while end > 1 and int(document[end - 1]) in self.marks:
            end -= 1
        return document[:end]

    def num_bytes(self, document: np.ndarray) -> int:
        """UTF-8 bytes of a document's text; `document` begins with a mark."""
        text = np.asarray(document[1:], dtype=np.int64)
        return int(self.first[text[:1]].sum() + self.inside[text[1:]].sum())


def score_documents(
    model: Decoder,
    documents: Sequence[np.ndarray],
    tokens: TokenBytes,
    *,
    window: int,
    stride: int,
    precision: Precision,
    pool: ThreadPool = NO_POOL,
) -> list[DocumentScore]:
    """Score each document, or each of its `beginnings`.

    `documents`: ids as `TokenSet.document` gives them: the first is the mark that begins a document.
    """
    was_training = model.training
    model.eval()
    texts = beginnings(documents, tokens, None)
    nats = partial(_nats, model, precision=precision)
    scores = list(score_texts(nats, texts, tokens, window=window, stride=stride, pool=pool))
    model.train(was_training)
    return scores


def score_texts(
    nats: Nats,
    texts: Sequence[np.ndarray],
    tokens: TokenBytes,
    *,
    window: int,
    stride: int,
    pool: ThreadPool = NO_POOL,
) -> Iterator[DocumentScore]:
    """Score each of the texts that `beginnings` gives, by whatever computes `nats`."""
    for text in texts:
        taken = np.asarray(text, dtype=np.int64)
        cost = _score_tokens(nats, taken, window, stride, pool)
        yield DocumentScore(cost, max(0, len(taken) - 1), tokens.num_bytes(taken))


def beginnings(
    documents: Sequence[np.ndarray], tokens: TokenBytes, max_bytes: int | None
) -> Sequence[np.ndarray]:
    """What is scored of the documents: all of their text, or an equal share from the start of each, of about
    `max_bytes` together."""
    texts = [tokens.text_of(document) for document in documents]
    if max_bytes is None:
        return texts
    share = min(1.0, max_bytes / max(1, sum(map(tokens.num_bytes, texts))))
    return [text[: max(2, round(len(text) * share))] for text in texts]


def score_tokens(
    model: Decoder,
    document: np.ndarray,
    window: int,
    stride: int,
    precision: Precision,
    pool: ThreadPool = NO_POOL,
) -> float:
    """Sum of nats over all tokens of one document but the first, from which the second is predicted.

    Raises: SettingsError for a stride that would leave tokens unscored between two windows.
    """
    return _score_tokens(partial(_nats, model, precision=precision), document, window, stride, pool)


def _score_tokens(nats: Nats, document: np.ndarray, window: int, stride: int, pool: ThreadPool) -> float:
    if not 1 <= stride <= window:
        raise SettingsError("stride", got=stride, wanted=f"1 to the window ({window:,} tokens)")
    batches = _batched(list(windows(document, window, stride)))
    return sum(pool.run([partial(nats, inputs, targets) for inputs, targets in batches]))


@torch.no_grad()
def _nats(model: Decoder, inputs: Tensor, targets: Tensor, precision: Precision) -> float:
    device = model.embedding.weight.device
    positions = torch.arange(inputs.shape[1], device=device)[None]
    with torch.autocast(device.type, precision.dtype, enabled=precision.is_autocast, cache_enabled=False):
        hidden = model(inputs.to(device), training_context(positions))
        return float(token_losses(hidden, model.head_weight, targets.to(device)).double().sum())


def windows(document: np.ndarray, window: int, stride: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets of each window; a target that an earlier window scored is IGNORED."""
    scored, last = 0, len(document) - 1
    while scored < last:
        end = min(last, window if scored == 0 else scored + stride)
        start = max(0, end - window)
        targets = document[start + 1 : end + 1].copy()
        targets[: scored - start] = IGNORED
        yield document[start:end], targets
        scored = end


def _batched(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows of equal length together, at most TOKENS_AT_ONCE or one."""
    pending: list[tuple[np.ndarray, np.ndarray]] = []
    for pair in pairs:
        if pending and (
            (len(pending) + 1) * len(pair[0]) > TOKENS_AT_ONCE or len(pair[0]) != len(pending[0][0])
        ):
            yield _stack(pending)
            pending = []
        pending.append(pair)
    if pending:
        yield _stack(pending)


def _stack(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
    return (
        torch.from_numpy(np.stack([inputs for inputs, _ in pairs])),
        torch.from_numpy(np.stack([targets for _, targets in pairs])),
    )


def bits_per_byte(scores: Sequence[DocumentScore], task: str, method: str) -> Score:
    """Bits that a model needs for one byte of text; comparable between tokenizers. `task` and `method` are
    for the record: what was scored, and how.

    The error is that of a ratio of sums over documents, by linearisation. Source: Cochran, Sampling
    Techniques, 1977, section 6.4.
    """
    value, stderr = ratio([score.nats for score in scores], [score.num_bytes for score in scores])
    return Score(
        task,
        value / math.log(2),
        None if stderr is None else stderr / math.log(2),
        "bits per byte",
        method,
        num_items=len(scores),
        num_bytes=sum(score.num_bytes for score in scores),
        num_tokens=sum(score.num_tokens for score in scores),
    )


def nats_per_token(scores: Sequence[DocumentScore]) -> float:
    """Mean loss; comparable only between models of one tokenizer."""
    return ratio([score.nats for score in scores], [score.num_tokens for score in scores])[0]


def window_method(window: int, stride: int, precision: str) -> str:
    """The method of a score over windows, for the record."""
    return f"windows of {window:,} tokens, {stride:,} of them new, in {precision}; document marks not scored"


def ratio(sums: Sequence[float], sizes: Sequence[int]) -> tuple[float, float | None]:
    """Sum over the sum of `sizes`, both by item, and the standard error of that; None for a single item."""
    total = sum(sizes)
    if total == 0:
        raise ShapeError("score", wanted="at least one scored byte or token", got=0)
    mean = sum(sums) / total
    count, stderr = len(sums), None
    if count > 1:
        residuals = sum((value - mean * size) ** 2 for value, size in zip(sums, sizes, strict=True))
        stderr = math.sqrt(count / (count - 1) * residuals) / total
    return mean, stderr
