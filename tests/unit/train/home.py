"""A workspace with a text in it, and runs by a clock that the test moves."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from sqlalchemy import select

from tuition.books.books import Books, open_books
from tuition.books.schema import runs
from tuition.core.progress import SilentProgress
from tuition.core.records import StepRecord
from tuition.core.workspace import Workspace, open_workspace
from tuition.data.loader import Batch
from tuition.data.settings import DataSettings
from tuition.ledger.meter import ModelledMeter
from tuition.spec.machine import detect_machine
from tuition.train.folder import RunFolder
from tuition.train.listeners import Listener
from tuition.train.probe import Probe
from tuition.train.recipe import Evaluated, EvaluationKind, RunContext
from tuition.train.recipes.pretrain import Pretrain, PretrainTask
from tuition.train.recipes.pretrain_settings import EvaluationSettings, PretrainSettings, ShapeSettings
from tuition.train.resume import OtherSettings
from tuition.train.run import Host, TrainResult, run_training
from tuition.train.settings import CheckpointSettings, TrainSettings


class Heard(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Clock:
    """Seconds that pass only when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Hasty(Clock):
    """Two seconds are gone each time one looks; a signal may come at one of the first looks."""

    looks, signal_at = 0, 0

    def __call__(self) -> float:
        self.looks, self.now = self.looks + 1, self.now + 2.0
        if self.looks == self.signal_at:
            signal.raise_signal(signal.SIGINT)
        return self.now


class Killed(BaseException):
    """The end of the process, as far as the run is concerned."""


class TimedTask:
    """A task whose steps and evaluations take a time of their own on this clock; it may die in a step."""

    def __init__(self, task: PretrainTask, clock: Clock, step_s: float, look_s: float, dies_in: int) -> None:
        self.task, self.clock, self.step_s, self.look_s, self.dies_in = task, clock, step_s, look_s, dies_in
        self.num_steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def loss(self, batch: Batch, scale: float) -> torch.Tensor:
        self.num_steps += 1
        if self.num_steps == self.dies_in:
            raise Killed
        self.clock.now += self.step_s
        return self.task.loss(batch, scale)

    def evaluate(self, kind: EvaluationKind) -> Evaluated:
        self.clock.now += self.look_s
        return self.task.evaluate(kind)


class Timed(Pretrain):
    """Pretraining of which `TimedTask` tells the time."""

    def __init__(self, settings: PretrainSettings, clock: Clock, **times: float) -> None:
        super().__init__(settings)
        self.clock, self.times = clock, {"step_s": 0.0, "look_s": 0.0, "dies_in": 0} | times

    def build(self, context: RunContext, data: Any) -> Any:
        return TimedTask(super().build(context, data), self.clock, **self.times)


class At:
    """A listener that does something when a step is done."""

    name = "a test"

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self.number, self.action = step, action

    def step(self, record: StepRecord) -> None:
        if record.step == self.number:
            self.action()

    def evaluated(self, probe: Probe) -> None: ...
    def event(self, kind: str, step: int, **values: Any) -> None: ...
    def close(self) -> None: ...


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


class Home:
    """A workspace with a text in it."""

    def __init__(self, root: Path) -> None:
        text = root / "text.txt"
        text.write_text("".join(f"the {word} of the king\n" for word in ("rose", "thorn", "crown")) * 200)
        self.workspace: Workspace = open_workspace(root / "home").create()
        self.settings = TrainSettings(
            name="tiny", steps=8, threads=1, checkpoints=CheckpointSettings(every_steps=3)
        )
        self.taught = PretrainSettings(
            data=DataSettings(paths=(text,), num_workers=1),
            vocab_size=280,
            batch_size=2,
            seq_len=16,
            shape=ShapeSettings(hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, mlp_size=24),
            evaluation=EvaluationSettings(times=2, probe_bytes=200, sample_tokens=4),
        )
        self.heard = Heard()

    def with_changes(self, **changes: Any) -> tuple[TrainSettings, PretrainSettings]:
        """The settings of the loop and of what is taught, with some of either changed."""
        loop = {name: changes.pop(name) for name in list(changes) if hasattr(self.settings, name)}
        return replace(self.settings, **loop), replace(self.taught, **changes)

    def run(
        self,
        resume: RunFolder | Literal["newest"] | None = None,
        other_settings: OtherSettings = "refuse",
        listeners: tuple[Listener, ...] = (),
        **changes: Any,
    ) -> TrainResult:
        settings, taught = self.with_changes(**changes)
        with open_books(self.workspace) as books:
            host = Host(self.workspace, books, detect_machine(), self.heard, listeners)
            return run_training(
                settings, Pretrain(taught), host, resume=resume, other_settings=other_settings
            )

    def run_timed(
        self,
        clock: Clock,
        times: dict[str, float],
        listeners: tuple[Listener, ...] = (),
        resume: Literal["newest"] | None = None,
        **changes: Any,
    ) -> TrainResult:
        """By this clock: budget, bill and all."""
        settings, taught = self.with_changes(steps=None, **changes)
        meter = ModelledMeter(detect_machine(), lambda: round(clock.now * 1e9))
        with open_books(self.workspace) as books:
            host = Host(self.workspace, books, detect_machine(), self.heard, listeners, clock, meter)
            return run_training(settings, Timed(taught, clock, **times), host, resume=resume)

    def rows(self) -> list:
        def read(books: Books) -> list:
            return list(
                books.read(
                    lambda c: c.execute(select(runs).order_by(runs.c.created_unix_ns)).mappings().all()
                )
            )

        with open_books(self.workspace) as books:
            return read(books)
