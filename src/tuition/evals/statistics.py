"""Means with their uncertainty, and paired differences.

In: one score per item.  Out: an `Estimate`, or the `Difference` of two models on the same items. Everything
is seeded: the same scores give the same figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

RESAMPLES = 10_000
SEED = 1
LEVEL = 0.95
MOST_EXACT = 14
"""Up to this many changed items, the test counts all combinations of signs; above, it draws `RESAMPLES`."""
_AT_ONCE = 2**22
"""Random numbers held in memory at a time."""


@dataclass(frozen=True)
class Estimate:
    """A mean over items, with a 95 % interval."""

    value: float
    low: float
    high: float
    num_items: int


@dataclass(frozen=True)
class Difference:
    """The mean of b - a over the items that both have answered."""

    value: float
    low: float
    high: float
    p_value: float
    """Probability of a difference at least as large if both models were equally good."""
    test: Literal["exact McNemar", "sign-flip permutation"]
    num_items: int


def estimate(scores: Sequence[float]) -> Estimate:
    """The mean of scores from 0 to 1, with the percentile interval of `RESAMPLES` resamples of the items.

    If all items are right, or none, all resamples are equal; the exact binomial limit is given instead.
    Raises: ValueError without scores.
    """
    values = np.asarray(scores, np.float64)
    if values.size == 0:
        raise ValueError("an estimate needs at least one score")
    value = float(values.mean())
    low, high = _interval(values)
    limit = ((1 - LEVEL) / 2) ** (1 / values.size)
    if values.min() == values.max() == 1:
        low = limit
    elif values.min() == values.max() == 0:
        high = 1 - limit
    return Estimate(value, low, high, values.size)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """The difference of two models on the same items, in the same order. Raises: ValueError."""
    if len(a) != len(b) or not a:
        raise ValueError(f"paired scores of {len(a)} and {len(b)} items")
    changes = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    low, high = _interval(changes)
    is_binary = {float(score) for score in (*a, *b)} <= {0.0, 1.0}
    worse, better = int((changes < 0).sum()), int((changes > 0).sum())
    return Difference(
        value=float(changes.mean()),
        low=low,
        high=high,
        p_value=mcnemar(worse, better) if is_binary else sign_flip(changes),
        test="exact McNemar" if is_binary else "sign-flip permutation",
        num_items=len(a),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value from the items that only one of the models has right."""
    total, fewer = only_a + only_b, min(only_a, only_b)
    ways, tail = 1, 1
    for k in range(fewer):
        ways = ways * (total - k) // (k + 1)  # total choose k + 1
        tail += ways
    return min(1.0, 2 * tail / 2**total)


def sign_flip(changes: np.ndarray) -> float:
    """Two-sided p-value of a mean of zero: each item's change could as well have the other sign."""
    moved = changes[changes != 0]
    if moved.size == 0:
        return 1.0
    seen = abs(moved.sum()) * (1 - 1e-12)  # tolerance for sums in another order
    if moved.size <= MOST_EXACT:
        bits = np.arange(2**moved.size)[:, None] >> np.arange(moved.size) & 1
        return float((np.abs((1 - 2 * bits) @ moved) >= seen).mean())
    draws = np.random.default_rng(SEED)
    as_large = 0
    for count in _parts(moved.size):
        signs = draws.integers(0, 2, (count, moved.size), np.int8) * 2 - 1
        as_large += int((np.abs(signs @ moved) >= seen).sum())
    return (as_large + 1) / (RESAMPLES + 1)


def _interval(values: np.ndarray) -> tuple[float, float]:
    """The `LEVEL` percentile interval of the means of bootstrap resamples.

    The mean of a resample depends only on how often each value occurs in it. So one multinomial draw over the
    different values replaces a draw per item.
    """
    draws = np.random.default_rng(SEED)
    different, counts = np.unique(values, return_counts=True)
    means = np.concatenate(
        [
            draws.multinomial(values.size, counts / values.size, size=count) @ different / values.size
            for count in _parts(different.size)
        ]
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _parts(width: int) -> list[int]:
    """`RESAMPLES` split into parts that fit the memory."""
    each = max(1, _AT_ONCE // width)
    return [min(each, RESAMPLES - begin) for begin in range(0, RESAMPLES, each)]
