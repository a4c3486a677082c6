"""The one loop of every kind of training: a generator of step records. What listens stays outside.

In: a state, a source of batches, a loss, settings, a span and a meter.  Out: one `StepRecord` per optimizer
step.
Whoever iterates may evaluate, save or stop between two records; time spent there counts against a budget.
"""

from collections.abc import Iterator
from typing import Protocol

from tuition.core.records import StepRecord, Window
from tuition.data.loader import Batch
from tuition.spec.counts import training_flops
from tuition.train.schedule import Span, lr_multiplier
from tuition.train.settings import TrainSettings
from tuition.train.state import TrainState
from tuition.train.step import Loss, train_step


class BatchSource(Protocol):
    """Batches by number, the same batch for the same number."""

    def batch(self, step: int) -> Batch: ...


class StepMeter(Protocol):
    """Measures windows of machine time; `ledger/meter` has the real ones."""

    def start(self) -> int: ...

    def stop(self, start_ns: int) -> Window: ...


def fit(
    state: TrainState,
    source: BatchSource,
    loss_fn: Loss,
    settings: TrainSettings,
    span: Span,
    meter: StepMeter,
) -> Iterator[StepRecord]:
    """Advance `state` by one optimizer step per record, until the span is over.

    A step that was skipped (see `guard`) has a record too, with a learning rate of 0.
    Raises: DivergedError.
    """
    while not span.is_over(state.step):
        start_ns = meter.start()
        multiplier = lr_multiplier(span.progress(state.step), settings.schedule)
        first = state.step * settings.accumulation
        batches = [source.batch(first + index) for index in range(settings.accumulation)]
        outcome = train_step(state, batches, loss_fn, multiplier, settings.optimizer.max_grad_norm)
        window = meter.stop(start_ns)
        yield StepRecord(
            step=state.step,
            loss=outcome.loss,
            grad_norm=outcome.grad_norm,
            lr=peak_lr(settings) * multiplier if outcome.problem is None else 0.0,
            num_tokens=outcome.num_tokens,
            flops=training_flops(state.model.shape, outcome.num_tokens, settings.seq_len),
            window=window,
            progress=span.progress(state.step),
        )


def peak_lr(settings: TrainSettings) -> float:
    """The learning rate that a record shows: the one of the matrices."""
    optimizer = settings.optimizer
    return optimizer.muon_lr if optimizer.kind == "muon" else optimizer.lr
