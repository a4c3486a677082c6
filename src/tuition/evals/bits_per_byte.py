"""Held-out bits per byte and perplexity, with their uncertainty over documents.

In: a decoder, its tokenizer, token ids of documents that were never taught.  Out: `Score`s.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from tuition.core.progress import Progress, SilentProgress
from tuition.data.shards import TokenSet
from tuition.model.decoder import Decoder
from tuition.runtime.crew import MOST_MEMBERS, Crew
from tuition.runtime.device import Precision, choose_precision
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.train.samples import byte_counts
from tuition.train.scoring import Score, beginnings, nats_per_token, score_documents
from tuition.train.scoring import bits_per_byte as summarize


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts held-out text."""

    bits_per_byte: Score
    nats_per_token: Score
    perplexity: float
    """Of a token: e to the power of nats per token."""
    window: int
    """Tokens of context that a window had."""
    titles: tuple[str, ...]
    """Documents that were scored, the first hundred."""


def evaluate(
    model: Decoder,
    tokenizer: Tokenizer,
    heldout: TokenSet,
    *,
    window: int | None = None,
    stride: int | None = None,
    max_bytes: int | None = None,
    precision: Precision | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score every byte of `heldout` once, or about `max_bytes` of them.

    `window`: tokens per forward pass, the model's context by default. `stride`: new tokens per window, half
    of it by default; less is slower and gives each token more context.
    """
    device = model.embedding.weight.device
    window = min(window or model.shape.context_length, model.shape.context_length)
    counts = np.asarray(byte_counts(tokenizer))
    whole = [heldout.document(index) for index in range(heldout.info.num_documents)]
    documents = beginnings(whole, counts, max_bytes)
    num_bytes = sum(int(counts[document].sum()) for document in documents)
    with (progress or SilentProgress()).task("evaluate", num_bytes, "B") as task:
        scores = score_documents(
            model,
            documents,
            counts,
            window=window,
            stride=stride or max(1, window // 2),
            precision=precision or choose_precision("auto", device),
            advance=task.advance,
            crew=Crew.for_rows(MOST_MEMBERS, torch.get_num_threads(), device),
        )
    loss = nats_per_token(scores)
    return Evaluation(summarize(scores), loss, perplexity(loss), window, heldout.info.titles)


def bits_per_byte(model: Decoder, tokenizer: Tokenizer, heldout: TokenSet) -> Score:
    """Bits the model needs for one byte of `heldout`, every byte scored once."""
    return evaluate(model, tokenizer, heldout).bits_per_byte


def perplexity(loss: Score) -> float:
    """e to the mean loss: between how many equally likely tokens the model is torn."""
    return math.exp(loss.mean)
