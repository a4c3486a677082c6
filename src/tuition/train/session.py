"""One run while it lasts: teaches, looks at itself, saves. The loop yields; this listens.

In: the parts that `run.py` has put together.  Out: checkpoints, log lines, evaluations, samples; the reason
it ended.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from tuition.core.errors import BooksError, BusyError, SettingsError
from tuition.core.progress import Progress
from tuition.core.records import Score, StepRecord
from tuition.core.units import format_count, format_duration
from tuition.data.corpus import Corpus
from tuition.data.loader import Loader
from tuition.ledger.training import TrainingBill
from tuition.runtime.checkpoints import Checkpoint, save_checkpoint
from tuition.spec.machine import Machine
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.train.folder import RunFolder
from tuition.train.listeners import JsonLog, TensorBoardLog, mfu, tokens_per_second
from tuition.train.loop import fit
from tuition.train.samples import write_sample
from tuition.train.schedule import BudgetSpan, Span, StepSpan
from tuition.train.scoring import HELDOUT_TASK, TokenBytes, bits_per_byte, score_documents, window_method
from tuition.train.settings import TrainSettings
from tuition.train.state import TrainState
from tuition.train.step import Loss
from tuition.train.stop import StopRequest

_LOG_LINE = "a line of the log"
_BOARD = "the file for TensorBoard (it ends here)"


@dataclass(frozen=True)
class Probe:
    """What a run saw when it looked at itself."""

    step: int
    progress: float
    seconds: float
    """Of the run so far."""
    score: Score
    """Held-out bits per byte."""
    samples: tuple[str, ...]


@dataclass
class Session:
    """A run that is under way."""

    settings: TrainSettings
    folder: RunFolder
    state: TrainState
    loader: Loader
    loss_fn: Loss
    """Of the recipe."""
    corpus: Corpus
    tokenizer: Tokenizer
    span: Span
    bill: TrainingBill
    machine: Machine
    progress: Progress
    header: dict[str, Any]
    probes: list[Probe] = field(default_factory=list)
    not_exact: list[str] = field(default_factory=list)
    """Why these may not be the bits of a run that was never stopped; empty: they are."""
    alarms: list[str] = field(default_factory=list)
    """What could not be written, the first time for each cause."""

    def __post_init__(self) -> None:
        self.log = JsonLog(self.folder.log, self.state.step)
        self.board = TensorBoardLog(self.folder.tensorboard, self.state.step)
        self._saved_at, self._saved_step = time.monotonic(), self.state.step
        self._known_causes: set[tuple[object, ...]] = set()

    def remember(self, checkpoint: Checkpoint) -> None:
        """Take over what a checkpoint of this run tells beside its state."""
        self.not_exact += [why for why in checkpoint.state["not_exact"] if why not in self.not_exact]
        self.probes = [_probe_from(value) for value in checkpoint.state["probes"]]

    def teach(self, stop: StopRequest) -> Literal["finished", "stopped"]:
        """Run to the end of the span, or to the step in which a stop is requested. Raises: DivergedError."""
        by_clock = isinstance(self.span, BudgetSpan)
        total = self.settings.budget_s if by_clock else float(self.settings.steps or 0)
        with self.progress.task("teach", total, "s" if by_clock else "steps") as task:
            done = self.span.spent_s if by_clock else float(self.state.step)
            task.advance(done)
            for record in self._steps():
                now = self.span.spent_s if by_clock else float(record.step)
                task.advance(now - done, self._note(record))
                done = now
                self._look_and_save(record)
                if stop.requested is not None:
                    return "stopped"
            return "finished"

    def say_stopping(self, signal_name: str) -> None:
        """Tell the user at once that the signal was received; the current step or checkpoint is finished."""
        again = "a second one stops at once and loses the steps since the last checkpoint"
        self.progress.say(f"{signal_name}: stopping, saving what was taught so far ({again})")

    def too_short(self) -> SettingsError:
        """The error for a budget that had no room for a step; takes one, to know how long it is."""
        begun_s = self.span.spent_s
        once = StepSpan(1)
        for record in fit(self.state, self.loader, self.loss_fn, self.settings, once, self.bill.meter):
            self.bill.add_step(record)
        needed = format_duration(begun_s + once.spent_s)
        return SettingsError(
            "budget", got=self.settings.budget, wanted=f"more than {needed}, which one step needs here"
        )

    def _steps(self) -> Iterator[StepRecord]:
        """The loop's records, each one billed and logged."""
        skipped = len(self.state.guard.skipped)
        for record in fit(self.state, self.loader, self.loss_fn, self.settings, self.span, self.bill.meter):
            self.bill.add_step(record)
            with self._alarm(_LOG_LINE):
                self.log.step(record, self.machine.peak_flops)
            with self._alarm(_BOARD):
                self.board.step(record, self.machine.peak_flops)
            for step, problem in self.state.guard.skipped[skipped:]:
                self._note_event("skipped", step=step, problem=problem)
                self.progress.say(f"step {step:,} was not taken: {problem}")
            skipped = len(self.state.guard.skipped)
            yield record

    def _note(self, record: StepRecord) -> str:
        speed, share = tokens_per_second(record), mfu(record, self.machine.peak_flops)
        parts = [f"loss {record.loss:.3f}"]
        parts += [f"{format_count(speed)} tokens/s"] if speed is not None else []
        parts += [f"MFU {share:.0%}"] if share is not None else []
        return ", ".join(parts)

    def _look_and_save(self, record: StepRecord) -> None:
        times = self.settings.evaluation.times
        due = min(int(record.progress * times + 1e-9), times - 1) if times else 0  # the last one: run.py
        if due > len(self.probes):
            self.look(record.progress, self.settings.evaluation.probe_bytes)
        every = self.settings.checkpoints.every_steps
        if every is not None:
            is_due = record.step % every == 0
        else:
            is_due = time.monotonic() - self._saved_at >= self.settings.checkpoints.every_s
        if is_due:
            self.save()

    def look(self, progress: float, max_bytes: int | None) -> Probe:
        """Score held-out text and write samples."""
        settings = self.settings.evaluation
        with self.bill.overhead("evaluation"):
            score = self._score(max_bytes)
            samples = tuple(
                write_sample(
                    self.state.model,
                    self.tokenizer,
                    prompt,
                    num_tokens=settings.sample_tokens,
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    seed=self.settings.seed + index,
                    precision=self.state.precision,
                )
                for index, prompt in enumerate(settings.sample_prompts if settings.sample_tokens else ())
            )
        probe = Probe(self.state.step, progress, self.span.spent_s, score, samples)
        self.probes.append(probe)
        values = {"bits_per_byte": score.value, "stderr": score.stderr, "num_bytes": score.num_bytes}
        self._note_event(
            "evaluation", step=probe.step, seconds=probe.seconds, samples=list(samples), **values
        )
        numbered = {f"sample {index}": f"```\n{text}\n```" for index, text in enumerate(samples)}
        with self._alarm(_BOARD):
            self.board.event("heldout", probe.step, bits_per_byte=score.value, **numbered)
        self.progress.say(_describe(probe))
        return probe

    def _score(self, max_bytes: int | None) -> Score:
        heldout, window, precision = self.corpus.heldout, self.settings.seq_len, self.state.precision
        stride = max(1, window // 2)
        scores = score_documents(
            self.state.model,
            [heldout.document(index) for index in range(heldout.info.num_documents)],
            TokenBytes.of(self.tokenizer),
            window=window,
            stride=stride,
            precision=precision,
            max_bytes=max_bytes,
            pool=self.state.pool,
        )
        method = window_method(window, stride, str(precision.dtype).removeprefix("torch."))
        score = bits_per_byte(scores, HELDOUT_TASK, method)
        return replace(score, data_digest=self.corpus.digest, run_id=self.folder.run_id)

    def save(self) -> None:
        """Write a checkpoint and the bill. A disk or a database that refuses is an alarm; training goes
        on."""
        if self._saved_step == self.state.step and self.state.step:
            return
        with self.bill.overhead("checkpoint"), self._alarm("the checkpoint (the one before is untouched)"):
            save_checkpoint(
                self.folder.checkpoints,
                self.state.step,
                self.state.tensors(),
                self._values(),
                keep=self.settings.checkpoints.keep,
            )
            self._saved_step = self.state.step
        if self._saved_step == self.state.step:
            self._note_event("checkpoint", step=self.state.step)
        self._saved_at = time.monotonic()
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

    def _note_event(self, kind: str, **values: Any) -> None:
        with self._alarm(_LOG_LINE):
            self.log.event(kind, **values)

    def _values(self) -> dict[str, Any]:
        return {
            "train": self.state.values(),
            "header": self.header,
            "spent_s": self.span.spent_s,
            "billed_ns": self.bill.teaching_ns,
            "bill": self.bill.counts,
            "not_exact": self.not_exact,
            "probes": [asdict(probe) for probe in self.probes],
        }

    def close(self) -> None:
        """End the logs."""
        with self._alarm(_LOG_LINE):
            self.log.close()
        with self._alarm(_BOARD):
            self.board.close()


def _probe_from(value: dict[str, Any]) -> Probe:
    changed: dict[str, Any] = {"score": Score(**value["score"]), "samples": tuple(value["samples"])}
    return Probe(**(value | changed))


def _describe(probe: Probe) -> str:
    error = "" if probe.score.stderr is None else f" ± {probe.score.stderr:.3f}"
    when = f"after {probe.step:,} steps ({probe.progress:.0%})"
    lines = [f"{when}: {probe.score.value:.3f}{error} held-out bits per byte"]
    for sample in probe.samples:
        lines += ["  | " + line for line in sample.strip().splitlines()] + [""]
    return "\n".join(lines).rstrip()
