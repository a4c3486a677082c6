"""Learning rate over a run, and what "over" means: exact steps, or the clock of a budget.

In: how much of the run is done, 0 to 1.  Out: what learning rates are multiplied by. No torch here.
"""

import time
from collections.abc import Callable
from typing import Protocol

from tuition.train.settings import ScheduleSettings


def lr_multiplier(progress: float, settings: ScheduleSettings) -> float:
    """Linear warmup to 1, a level stretch, then linear decay to `final`; all in shares of the run.

    Source for decay to the very end: arXiv:2502.15938.
    """
    if progress < settings.warmup:
        return max(progress / settings.warmup, settings.floor)
    decay_start = 1.0 - settings.decay
    if progress <= decay_start or settings.decay == 0.0:
        return 1.0
    left = max(0.0, (1.0 - progress) / settings.decay)
    return settings.final + (1.0 - settings.final) * left


class Span(Protocol):
    """How long a run lasts."""

    def progress(self, step: int) -> float:
        """Share of the run that is done when `step` optimizer steps are done, 0 to 1."""
        ...

    def is_over(self, step: int) -> bool:
        """Whether the run is complete."""
        ...

    @property
    def spent_s(self) -> float:
        """Seconds of the run so far, those before a resume included."""
        ...


class StepSpan:
    """Exactly `total_steps` optimizer steps. Nothing depends on the clock, so a run can be repeated bit for
    bit."""

    def __init__(
        self, total_steps: int, spent_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total_steps, self._spent_before, self._clock, self._start = total_steps, spent_s, clock, clock()

    def progress(self, step: int) -> float:
        return min(1.0, step / self.total_steps)

    def is_over(self, step: int) -> bool:
        return step >= self.total_steps

    @property
    def spent_s(self) -> float:
        return self._spent_before + self._clock() - self._start


class BudgetSpan:
    """As many steps as fit into `budget_s` seconds of wall time, evaluation and checkpoints included.

    `spent_s` is what a run that is resumed had used already. A step does not begin if, at the mean
    duration so far, it would end after the budget.
    """

    def __init__(
        self, budget_s: float, spent_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.budget_s, self._spent_before, self._clock, self._start = budget_s, spent_s, clock, clock()

    @property
    def spent_s(self) -> float:
        return self._spent_before + self._clock() - self._start

    def progress(self, step: int) -> float:
        return min(1.0, self.spent_s / self.budget_s)

    def is_over(self, step: int) -> bool:
        spent = self.spent_s
        pace = spent / step if step > 0 else 0.0
        return spent + pace > self.budget_s
