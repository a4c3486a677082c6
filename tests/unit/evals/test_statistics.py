"""Intervals cover what they say they cover, and p-values are those of the textbook."""

import itertools
import math
import random

import pytest

from tuition.evals.statistics import estimate, mcnemar, paired_difference, sign_flip


def test_an_interval_is_the_same_each_time_and_holds_its_mean() -> None:
    scores = [1.0] * 70 + [0.0] * 30
    assert estimate(scores) == estimate(scores)
    found = estimate(scores)
    assert found.value == 0.7
    assert found.low < 0.7 < found.high


def test_an_interval_is_as_wide_as_the_binomial_one() -> None:
    """Normal approximation: half a width of 1.96 standard errors; 10,000 resamples come within 3 % of it."""
    found = estimate([1.0] * 240 + [0.0] * 160)
    half = 1.96 * math.sqrt(0.6 * 0.4 / 400)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.03)


def test_nineteen_of_twenty_intervals_hold_the_true_value() -> None:
    draws, inside = random.Random(3), 0
    for _ in range(200):
        found = estimate([float(draws.random() < 0.4) for _ in range(100)])
        inside += found.low <= 0.4 <= found.high
    assert 180 <= inside <= 199  # binomial with 200 and 0.95: 99.8 % of the mass


def test_items_that_are_all_right_leave_room_below_one() -> None:
    """A resample of equal items is always the same; the exact limit of 50 of 50 is 0.025^(1/50)."""
    assert estimate([1.0] * 50).low == pytest.approx(0.9289, abs=1e-4)
    assert estimate([0.0] * 50).high == pytest.approx(0.0711, abs=1e-4)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (1, 9, 0.021484375), (9, 1, 0.021484375)],
)
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar(only_a, only_b) == p


def test_ten_thousand_items_that_changed_are_counted_exactly() -> None:
    """The normal approximation with continuity correction is near at this size."""
    z = (5_200 - 4_800 - 1) / math.sqrt(10_000)
    assert mcnemar(4_800, 5_200) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)


def test_the_interval_of_parts_is_that_of_resampled_items() -> None:
    """Resamples that are drawn item by item, with another generator: the bounds differ by chance alone."""
    draws = random.Random(2)
    scores = [draws.choice([0.0, 0.2, 0.6, 1.0]) for _ in range(80)]
    means = sorted(sum(draws.choices(scores, k=80)) / 80 for _ in range(4_000))
    found = estimate(scores)
    assert found.low == pytest.approx(means[99], abs=0.01)
    assert found.high == pytest.approx(means[3_899], abs=0.01)


def test_few_changes_are_flipped_in_every_way() -> None:
    import numpy as np

    changes = [0.2, -0.4, 0.6, 0.2, 1.0]
    seen = abs(sum(changes))
    flips = [abs(sum(s * c for s, c in zip(signs, changes, strict=True)))
             for signs in itertools.product((1, -1), repeat=5)]  # fmt: skip
    by_hand = sum(flip >= seen - 1e-9 for flip in flips) / 32
    assert sign_flip(np.array([*changes, 0.0, 0.0])) == by_hand


def test_many_changes_give_nearly_the_p_value_of_the_normal_distribution() -> None:
    import numpy as np

    changes = np.random.default_rng(0).normal(0.1, 1.0, 400)
    z = abs(changes.sum()) / math.sqrt((changes**2).sum())
    assert sign_flip(changes) == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.015)


def test_pairs_tell_more_than_two_intervals() -> None:
    """40 of 400 items gained and none lost is no accident, though both intervals overlap."""
    a = [1.0] * 200 + [0.0] * 200
    b = [1.0] * 240 + [0.0] * 160
    found = paired_difference(a, b)
    assert found.value == pytest.approx(0.1)
    assert found.low >= 0.07
    assert found.high <= 0.13
    assert found.p_value < 1e-11
    assert found.test == "exact McNemar"
    assert paired_difference([0.5, 1.0], [1.0, 1.0]).test == "sign-flip permutation"


def test_results_of_different_items_are_refused() -> None:
    with pytest.raises(ValueError, match="paired scores of 1 and 2 items"):
        paired_difference([1.0], [1.0, 0.0])
