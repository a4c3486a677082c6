"""Learning rate and length of a run."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.core.errors import SettingsError
from tuition.train.schedule import BudgetSpan, StepSpan, lr_multiplier
from tuition.train.settings import ScheduleSettings


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_rises_stays_and_falls_to_zero() -> None:
    settings = ScheduleSettings(warmup=0.1, decay=0.5)
    shown = [lr_multiplier(progress, settings) for progress in (0.0, 0.05, 0.1, 0.3, 0.5, 0.75, 1.0)]
    assert shown == pytest.approx([0.01, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0])


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 1))
def test_it_is_never_above_the_peak_nor_below_what_was_asked(
    progress: float, warmup: float, decay: float, final: float
) -> None:
    settings = ScheduleSettings(warmup=warmup, decay=decay, final=final)
    assert min(final, settings.floor) - 1e-9 <= lr_multiplier(progress, settings) <= 1.0 + 1e-9


def test_warmup_and_decay_that_overlap_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"schedule\.decay"):
        ScheduleSettings(warmup=0.5, decay=0.6)


def test_steps_end_after_exactly_that_many_whatever_the_clock() -> None:
    span = StepSpan(3, clock=Clock())
    assert [span.is_over(step) for step in range(5)] == [False, False, False, True, True]
    assert [span.progress(step) for step in (0, 3)] == [0.0, 1.0]


def test_a_budget_ends_before_a_step_that_would_not_fit() -> None:
    clock = Clock()
    span = BudgetSpan(10.0, clock=clock)
    step = 0
    while not span.is_over(step):
        clock.now += 3.0
        step += 1
    assert (step, clock.now) == (3, 9.0)
    assert span.progress(step) == pytest.approx(0.9)


def test_a_resumed_budget_has_what_is_left() -> None:
    clock = Clock()
    span = BudgetSpan(10.0, spent_s=8.0, clock=clock)
    assert span.progress(80) == pytest.approx(0.8)
    clock.now = 1.0
    assert span.spent_s == pytest.approx(9.0)
    assert not span.is_over(90)
    clock.now = 2.0
    assert span.is_over(100)
