"""Choose the next token from a row of logits, with numpy. One row at a time: no neighbour can change a bit.

In: a row of logits, (vocab,) float32.  Out: a token id, and where asked its log-probability.

The draw is a number in [0, 1) that depends only on (seed, position). The token is found by inverse transform
sampling: the first one, in order of the ids, at which the running sum of the kept probabilities exceeds that
number. Log-probabilities are those of the raw distribution, before penalties, bias, temperature and cuts, as
in the OpenAI protocol.

A runner that takes bursts (`batch.BurstRunner`) draws by the same rule in its own arithmetic, also for single
steps: numpy's exponentials have other last bits, and a reply must not depend on how its steps were taken.
"""

import math
from collections.abc import Callable

import numpy as np

from tuition.engine.request import Sampling, TokenLogprob

SEED_MASK = (1 << 64) - 1
"""The bits of a seed that count."""
_STEP = 0x9E3779B97F4A7C15
BIN_SHIFT = 15
"""Low bits of a float32 that its bin ignores: eight bits of the fraction remain, so bins are narrow."""
FEW = 4_096
"""Up to this many weights sorting is faster than bins."""
COLDEST = 1e-6
"""Below this temperature only the most likely token has weight in float32."""
SPAN = 256
"""Weights summed at once in the search for the drawn token."""
Draw = Callable[[np.ndarray, Sampling, float], int]
"""As `draw` below: from a row, settings and a number in [0, 1) to a token id."""


class PoisonedLogitsError(ValueError):
    """The logits of a row are not finite: nothing can be chosen from them."""


def mix(value: int) -> int:
    """A bijection of 64 bits in which every bit depends on every bit (SplitMix64, Steele et al. 2014)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & SEED_MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & SEED_MASK
    return value ^ (value >> 31)


def uniform(seed: int, position: int) -> float:
    """The draw of a position, in [0, 1): the SplitMix64 stream that begins at mix(seed)."""
    start = mix((seed + _STEP) & SEED_MASK)
    return (mix((start + (position + 1) * _STEP) & SEED_MASK) >> 11) * 2.0**-53


def argmax(row: np.ndarray) -> int:
    """Most likely token, ties to the lower id. Raises: PoisonedLogitsError."""
    token_id = int(row.argmax())
    if not math.isfinite(row.item(token_id)):
        raise PoisonedLogitsError(f"the largest logit is {row[token_id]}")
    return token_id


def log_total(row: np.ndarray) -> float:
    """Logarithm of the sum of exp(row)."""
    top = row.max()
    if not math.isfinite(top):
        raise PoisonedLogitsError(f"the largest logit is {top}")
    return float(top) + math.log(np.exp(row - top).sum())


def most_likely(row: np.ndarray, count: int) -> list[int]:
    """The `count` most likely tokens, most likely first, ties to the lower id.

    The row is cut into spans, four for each wanted token. No wanted token is below the lowest of the `count`
    highest maxima of spans, so only tokens that reach it are sorted.
    """
    count = min(count, len(row))
    if count == 0:
        return []
    if count == 1:
        return [argmax(row)]
    tops = np.maximum.reduceat(row, np.arange(0, len(row), max(1, len(row) // (4 * count))))
    tops.partition(len(tops) - count)
    found = (row >= tops.item(len(tops) - count)).nonzero()[0]
    return found[np.lexsort((found, -row[found]))][:count].tolist()


def token_logprob(row: np.ndarray, token_id: int, num_top: int) -> TokenLogprob:
    """How likely `token_id` was under the raw distribution, and the `num_top` most likely ones."""
    total = log_total(row)
    top = tuple([(token, row.item(token) - total) for token in most_likely(row, num_top)])
    return TokenLogprob(token_id, row.item(token_id) - total, top)


def draw(row: np.ndarray, sampling: Sampling, at: float) -> int:
    """The token that `at` in [0, 1) selects after temperature and cuts. Raises: PoisonedLogitsError."""
    top = row.max()
    if not math.isfinite(top):
        raise PoisonedLogitsError(f"the largest logit is {top}")
    weights = row - top
    weights *= np.float32(1 / max(sampling.temperature, COLDEST))
    np.exp(weights, out=weights)  # the likeliest token weighs 1
    kept = None
    if 0 < sampling.top_k < len(row):
        kept = np.sort(np.array(most_likely(row, sampling.top_k)))
        weights = weights[kept]
    if sampling.top_p < 1:
        among = _nucleus(weights, sampling.top_p)
        kept = among if kept is None else kept[among]
        weights = weights[among]
    if sampling.min_p > 0:
        among = np.flatnonzero(weights >= sampling.min_p)
        kept = among if kept is None else kept[among]
        weights = weights[among]
    place = _place_under(weights, at)
    return place if kept is None else int(kept[place])


def _nucleus(weights: np.ndarray, top_p: float) -> np.ndarray:
    """Places, ascending, of the fewest weights that reach `top_p` of all; ties to the lower place.

    Weights below an equal share of the probability that may be dropped cannot exceed it together, so only
    those above are considered. Of many, only the bin that holds the end of the nucleus is sorted: positive
    floats have the order of their bits.
    """
    total = float(weights.sum(dtype=np.float64))
    among = (weights >= (1 - top_p) * total / len(weights)).nonzero()[0]
    wanted, weights = top_p * total, weights[among]
    if len(weights) <= FEW:
        order = (-weights).argsort(kind="stable")
        sums = weights[order].cumsum(dtype=np.float64)
        kept = among[order[: int(sums.searchsorted(wanted)) + 1]]
        kept.sort()
        return kept
    bins = weights.view(np.int32) >> BIN_SHIFT
    falling = np.bincount(bins, weights)[::-1]
    sums = falling.cumsum()
    step = min(int(sums.searchsorted(wanted)), len(sums) - 1)
    border = len(falling) - 1 - step
    above = sums[step] - falling[step]
    inside = (bins == border).nonzero()[0]
    order = inside[(-weights[inside]).argsort(kind="stable")]
    count = int((above + weights[order].cumsum(dtype=np.float64)).searchsorted(wanted)) + 1
    chosen = bins > border
    chosen[order[:count]] = True
    return among[chosen]


def _place_under(weights: np.ndarray, at: float) -> int:
    """The first place whose running sum exceeds `at` of the total. A weight of zero is never selected."""
    if len(weights) <= 2 * SPAN:
        sums = weights.cumsum(dtype=np.float64)
        return _place_in(sums, at * sums.item(-1))
    spans = np.add.reduceat(weights, np.arange(0, len(weights), SPAN))
    sums = spans.cumsum(dtype=np.float64)  # first which span, then which place in it
    goal = at * sums.item(-1)
    span = _place_in(sums, goal)
    before = sums.item(span - 1) if span else 0.0
    inside = weights[span * SPAN : (span + 1) * SPAN].cumsum(dtype=np.float64)
    return span * SPAN + _place_in(inside, goal - before)


def _place_in(sums: np.ndarray, goal: float) -> int:
    """The first place whose running sum is more than `goal`, or the last place that adds anything."""
    place = int(sums.searchsorted(goal, side="right"))
    return place if place < len(sums) else int(sums.searchsorted(sums.item(-1)))
