"""One run in progress: trains, evaluates, saves. It consumes the records of the loop.

In: the parts that `run.py` has put together.  Out: checkpoints, log lines, evaluations; the reason it ended.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from tuition.core.errors import BooksError, BusyError, SettingsError
from tuition.core.records import StepRecord
from tuition.core.units import format_count, format_duration
from tuition.ledger.training import TrainingBill
from tuition.runtime.checkpoints import Checkpoint, save_checkpoint
from tuition.train.best import BestWeights
from tuition.train.listeners import Listener, mfu, units_per_second
from tuition.train.loop import fit
from tuition.train.probe import Probe, probe_from
from tuition.train.recipe import Evaluated, EvaluationKind, RunContext, TrainingTask
from tuition.train.schedule import BudgetSpan, Span, StepSpan
from tuition.train.state import TrainState
from tuition.train.stop import StopRequest

SAVING_SHARE = 20
"""Time between two checkpoints over the time that one takes, at least."""


@dataclass
class Session:
    """A run in progress."""

    context: RunContext
    task: TrainingTask[Any]
    unit: str
    """Of the recipe."""
    state: TrainState
    span: Span
    bill: TrainingBill
    listeners: Sequence[Listener]
    header: dict[str, Any]
    clock: Callable[[], float]
    """Seconds; decides when a checkpoint is due."""
    probes: list[Probe] = field(default_factory=list)
    not_exact: list[str] = field(default_factory=list)
    """Reasons why the bits may differ from those of an uninterrupted run; empty: they are equal."""
    alarms: list[str] = field(default_factory=list)
    """What could not be written, the first time for each cause."""
    last: Evaluated | None = None
    """The last evaluation whole."""

    def __post_init__(self) -> None:
        self.settings, self.progress = self.context.settings, self.context.progress
        self.best = BestWeights(self.context.folder.best, self.task.keeps)
        self._saved_at, self._saved_step, self._save_s = self.clock(), self.state.step, 0.0
        self._known_causes: set[tuple[object, ...]] = set()

    def remember(self, checkpoint: Checkpoint) -> None:
        """Take over what a checkpoint of this run holds beside its state."""
        self.not_exact += [why for why in checkpoint.state["not_exact"] if why not in self.not_exact]
        self.probes = [probe_from(value) for value in checkpoint.state["probes"]]
        self.best.load(checkpoint.state["best"], checkpoint.step)

    def teach(self, stop: StopRequest) -> Literal["finished", "stopped"]:
        """Run to the end of the span, or to the step in which a stop is requested. Raises: DivergedError."""
        by_clock = isinstance(self.span, BudgetSpan)
        total = self.settings.budget_s if by_clock else float(self.settings.steps or 0)
        with self.progress.task("teach", total, "s" if by_clock else "steps") as bar:
            done = self.span.spent_s if by_clock else float(self.state.step)
            bar.advance(done)
            for record in self._steps():
                now = self.span.spent_s if by_clock else float(record.step)
                bar.advance(now - done, self._note(record))
                done = now
                self._evaluate_and_save(record)
                if stop.requested is not None:
                    return "stopped"
            return "finished"

    def say_stopping(self, signal_name: str) -> None:
        """Tell the user at once that the signal was received; the current step or checkpoint is finished."""
        again = "a second one stops at once and loses the steps since the last checkpoint"
        self.progress.say(f"{signal_name}: stopping, saving what was taught so far ({again})")

    def too_short(self) -> SettingsError:
        """The error for a budget that is too short for one step; runs one step to measure it."""
        begun_s = self.span.spent_s
        once = StepSpan(1)
        for record in fit(self.state, self.task, self.settings, once, self.bill.meter):
            self.bill.add_step(record)
        needed = format_duration(begun_s + once.spent_s)
        return SettingsError(
            "budget", got=self.settings.budget, wanted=f"more than {needed}, which one step needs here"
        )

    def _steps(self) -> Iterator[StepRecord]:
        """The loop's records, each one billed and told to the listeners."""
        skipped = len(self.state.guard.skipped)
        for record in fit(self.state, self.task, self.settings, self.span, self.bill.meter):
            self.bill.add_step(record)
            self._tell(lambda listener, record=record: listener.step(record))
            for step, problem in self.state.guard.skipped[skipped:]:
                self._tell_event("skipped", step, problem=problem)
                self.progress.say(f"step {step:,} was skipped: {problem}")
            skipped = len(self.state.guard.skipped)
            yield record

    def _note(self, record: StepRecord) -> str:
        speed, share = units_per_second(record), mfu(record, self.bill.meter.machine.peak_flops)
        parts = [f"loss {record.loss:.3f}"]
        parts += [f"{format_count(speed)} {self.unit}s/s"] if speed is not None else []
        parts += [f"MFU {share:.0%}"] if share is not None else []
        return ", ".join(parts)

    def _evaluate_and_save(self, record: StepRecord) -> None:
        times = self.task.num_evaluations
        due = min(int(record.progress * times + 1e-9), times - 1) if times else 0  # the last one: run.py
        if due > len(self.probes) and record.progress < 1.0:
            probe = self.evaluate(record.progress, "interim")
            with (
                self.bill.overhead("checkpoint"),
                self._alarm("the weights with the best score (those before are kept)"),
            ):
                self.best.offer(self.state, probe.score.value)
        every = self.settings.checkpoints.every_steps
        if every is not None:
            is_due = record.step % every == 0
        else:
            wait_s = max(self.settings.checkpoints.every_s, SAVING_SHARE * self._save_s)
            is_due = self.clock() - self._saved_at >= wait_s
        if is_due:
            self.save()

    def evaluate(self, progress: float, kind: EvaluationKind) -> Probe:
        """Score held-out items and write samples."""
        with self.bill.overhead("evaluation"):
            self.last = found = self.task.evaluate(kind)
        score = replace(found.score, run_id=self.context.folder.run_id)
        probe = Probe(self.state.step, progress, self.span.spent_s, score, found.samples)
        self.probes.append(probe)
        self._tell(lambda listener: listener.evaluated(probe))
        self.progress.say(probe.describe())
        return probe

    def choose(self) -> int:
        """Put the weights that the task keeps into the model; returns the step that they are from."""
        if self.best.step is None:
            return self.state.step
        last = self.evaluate(1.0, "interim")  # by the measure of the others
        if self.best.is_better(last.score.value):
            return self.state.step
        with self.bill.overhead("load"):
            step = self.best.restore(self.state)
        problem = f"step {self.state.step:,} is not better on held-out items than step {step:,}"
        self.progress.say(f"{problem}, whose weights are kept")
        return step

    def save(self) -> None:
        """Write a checkpoint and the bill. A disk or database error is an alarm; training
        continues."""
        if self._saved_step == self.state.step and self.state.step:
            return
        begun = self.clock()
        with self.bill.overhead("checkpoint"), self._alarm("the checkpoint (the one before is untouched)"):
            save_checkpoint(
                self.context.folder.checkpoints,
                self.state.step,
                self.state.tensors(),
                self._values(),
                keep=self.settings.checkpoints.keep,
            )
            self._saved_step = self.state.step
        if self._saved_step == self.state.step:
            self._tell_event("checkpoint", self.state.step)
        self._saved_at = self.clock()
        self._save_s = self._saved_at - begun
        with self._alarm("the bill (its next save makes up for it)"):
            self.bill.save()

    @contextmanager
    def _alarm(self, what: str) -> Iterator[None]:
        """Let training go on when `what` cannot be written, and say so once for each cause."""
        try:
            yield
        except (OSError, BooksError, BusyError) as error:
            cause = (what, type(error), getattr(error, "errno", None))
            if cause in self._known_causes:
                return
            self._known_causes.add(cause)
            self.alarms.append(f"step {self.state.step:,}: {what} could not be written ({error})")
            self.progress.say(f"ALARM: {self.alarms[-1]}; training goes on")

    def _tell(self, what: Callable[[Listener], None]) -> None:
        for listener in self.listeners:
            with self._alarm(listener.name):
                what(listener)

    def _tell_event(self, kind: str, step: int, **values: Any) -> None:
        self._tell(lambda listener: listener.event(kind, step, **values))

    def _values(self) -> dict[str, Any]:
        return {
            "train": self.state.values(),
            "header": self.header,
            "spent_s": self.span.spent_s,
            "billed_ns": self.bill.teaching_ns,
            "bill": self.bill.record(),
            "not_exact": self.not_exact,
            "probes": [asdict(probe) for probe in self.probes],
            "best": self.best.values(),
        }

    def close(self) -> None:
        """End the logs."""
        self._tell(lambda listener: listener.close())
