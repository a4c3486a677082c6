"""T5: strange steps are found, ordinary ones are left alone, and too many strange ones end the run."""

import math
import random

import pytest

from tuition.train.guard import DivergedError, Guard
from tuition.train.settings import GuardSettings


def seasoned(steps: int = 64) -> Guard:
    guard = Guard(GuardSettings())
    chance = random.Random(0)
    for _ in range(steps):
        guard.take(4.0 + chance.gauss(0, 0.1), math.exp(chance.gauss(0, 0.3)))
    return guard


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (4.0, math.nan), (4.0, 1e4), (40.0, 1.0)]
)
def test_a_strange_step_is_found(loss: float, norm: float) -> None:
    assert seasoned().problem(loss, norm) is not None


def test_small_gradients_of_a_loss_near_zero_are_no_spikes() -> None:
    guard = Guard(GuardSettings())
    for _ in range(64):
        guard.take(0.001, 0.003)
    assert guard.problem(0.01, 0.0855) is None
    assert guard.problem(0.01, 30.0) is not None


def test_an_example_that_is_not_learnt_among_learnt_ones_is_no_spike() -> None:
    """Norms of a real run on small batches: three such steps within a hundred ended it."""
    guard = Guard(GuardSettings())
    for _ in range(64):
        guard.take(0.02, 0.06)
    for norm in (2.2, 1.66, 1.11):
        assert guard.problem(0.4, norm) is None


def test_ten_thousand_ordinary_steps_are_taken() -> None:
    """Noise as large runs have it; at most one in a thousand may be refused."""
    guard, chance, refused = Guard(GuardSettings()), random.Random(1), 0
    for step in range(10_000):
        loss = 3.0 + 5.0 * math.exp(-step / 500) + chance.gauss(0, 0.1)
        norm = math.exp(chance.gauss(0, 0.5))
        if guard.problem(loss, norm) is None:
            guard.take(loss, norm)
        else:
            refused += 1
    assert refused <= 10


def test_a_run_that_has_just_begun_is_judged_by_not_a_number_only() -> None:
    guard = Guard(GuardSettings())
    assert guard.problem(1e6, 1e9) is None
    assert guard.problem(math.nan, 1.0) is not None


def test_the_third_in_a_window_stops_the_run_with_all_three_named() -> None:
    guard = seasoned()
    guard.skip(10, "first")
    guard.skip(60, "second")
    with pytest.raises(DivergedError, match="first; second; third"):
        guard.skip(109, "third")


def test_skips_far_apart_do_not_add_up() -> None:
    guard = seasoned()
    for step in (1, 102, 203, 304):
        guard.skip(step, "strange")
    assert len(guard.skipped) == 4


def test_its_memory_goes_through_json_and_back() -> None:
    guard = seasoned()
    guard.skip(7, "strange")
    copy = Guard(GuardSettings())
    copy.load(guard.state())
    assert copy.state() == guard.state()
