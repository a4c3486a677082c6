"""Bits per byte and perplexity of text, with their uncertainty over documents.

In: a decoder, its tokenizer, token ids of documents.  Out: `Evaluation`.
"""

import math
from dataclasses import dataclass

import torch

from tuition.core.progress import Progress, SilentProgress
from tuition.core.records import Score
from tuition.data.shards import TokenSet
from tuition.model.decoder import Decoder
from tuition.runtime.device import Precision, choose_precision
from tuition.runtime.thread_pool import MAX_THREADS, ThreadPool
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.train.scoring import (
    TokenBytes,
    beginnings,
    bits_per_byte,
    nats_per_token,
    score_documents,
    window_method,
)


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
    model: Decoder,
    tokenizer: Tokenizer,
    text: TokenSet,
    *,
    task: str = "bits per byte",
    window: int | None = None,
    stride: int | None = None,
    max_bytes: int | None = None,
    precision: Precision | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score every byte of `text` once, or about `max_bytes` of them.

    `window`: tokens per forward pass, the model's context by default. `stride`: new tokens per window, half
    of it by default; less is slower and gives each token more context.
    """
    device = model.embedding.weight.device
    window = min(window or model.shape.context_length, model.shape.context_length)
    tokens = TokenBytes.of(tokenizer)
    precision, stride = precision or choose_precision("auto", device), stride or max(1, window // 2)
    whole = [text.document(index) for index in range(text.info.num_documents)]
    documents = beginnings(whole, tokens, max_bytes)
    num_bytes = sum(map(tokens.num_bytes, documents))
    with (progress or SilentProgress()).task("evaluate", num_bytes, "B") as bar:
        scores = score_documents(
            model,
            documents,
            tokens,
            window=window,
            stride=stride,
            precision=precision,
            advance=bar.advance,
            pool=ThreadPool.for_rows(MAX_THREADS, torch.get_num_threads(), device),
        )
    score = bits_per_byte(
        scores, task, window_method(window, stride, str(precision.dtype).removeprefix("torch."))
    )
    return Evaluation(score, math.exp(nats_per_token(scores)), window, text.info.titles)
