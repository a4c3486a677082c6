"""The one loop of every kind of training: a generator of step records. What listens stays outside.

In: a state, a task of any recipe, settings, a span and a meter.  Out: one `StepRecord` per optimizer step.
Whoever iterates may evaluate, save or stop between two records; time spent there counts against a budget.
"""

from collections.abc import Iterator
from typing import Any, Protocol

from tuition.core.records import StepRecord, Window
from tuition.train.recipe import TrainingTask
from tuition.train.schedule import Span, lr_multiplier
from tuition.train.settings import PRETRAINING, TrainSettings, rates_of
from tuition.train.state import TrainState
from tuition.train.step import train_step


class StepMeter(Protocol):
    """Measures windows of machine time; `ledger/meter` has the real ones."""

    def start(self) -> int: ...

    def stop(self, start_ns: int) -> Window: ...


def fit(
    state: TrainState, task: TrainingTask[Any], settings: TrainSettings, span: Span, meter: StepMeter
) -> Iterator[StepRecord]:
    """Advance `state` by one optimizer step per record, until the span is over.

    In a group of processes the clock of member 0 decides when that is, and how far the learning rate is.
    A step that was skipped (see `guard`) has a record too, with a learning rate of 0.
    Raises: DivergedError.
    """
    while True:
        is_over, progress = state.group.decide(span.is_over(state.step), span.progress(state.step))
        if is_over:
            return
        start_ns = meter.start()
        multiplier = lr_multiplier(progress, settings.schedule)
        first = state.step * settings.accumulation
        batches = [task.batch(first + index) for index in range(settings.accumulation)]
        outcome = train_step(state, batches, task.loss, multiplier, settings.optimizer.max_grad_norm)
        window = meter.stop(start_ns)
        yield StepRecord(
            step=state.step,
            loss=outcome.loss,
            grad_norm=outcome.grad_norm,
            lr=peak_lr(settings) * multiplier if outcome.problem is None else 0.0,
            num_units=outcome.num_units,
            flops=round(state.group.sum(sum(map(task.flops, batches)))),
            window=window,
            progress=span.progress(state.step),
        )


def peak_lr(settings: TrainSettings) -> float:
    """The learning rate that a record shows: the one of the matrices."""
    rates = rates_of(settings.optimizer)
    return rates.muon_lr if settings.optimizer.filled(PRETRAINING).kind == "muon" else rates.lr
