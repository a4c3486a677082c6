"""A small training run: `<workspace> <steps> <mode> <threads> <seconds between steps> <text>`.

Modes: `new`; `resume`; `dies`, a new run that is killed by SIGKILL after its second checkpoint and before it
saves its bill.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuition.books.books import open_books
from tuition.core.progress import SilentProgress
from tuition.core.records import StepRecord
from tuition.core.workspace import open_workspace
from tuition.data.settings import DataSettings
from tuition.ledger import training
from tuition.spec.machine import detect_machine
from tuition.train.probe import Probe
from tuition.train.recipes.pretrain import Pretrain
from tuition.train.recipes.pretrain_settings import EvaluationSettings, PretrainSettings, ShapeSettings
from tuition.train.run import Host, run_training
from tuition.train.settings import CheckpointSettings, TrainSettings


class Unhurried(SilentProgress):
    """Leaves the parent a moment between steps, or the run is over before it can be killed."""

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s

    def advance(self, amount: float = 1, note: str = "") -> None:
        time.sleep(self.pause_s)

    @contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[SilentProgress]:
        yield self if label == "teach" else SilentProgress()


class DiesAfterCheckpoint:
    """A listener that ends the process between its second checkpoint and the save of its bill."""

    name = "a test"

    def __init__(self) -> None:
        self.num_checkpoints = 0

    def event(self, kind: str, step: int, **values: Any) -> None:
        self.num_checkpoints += kind == "checkpoint"
        if self.num_checkpoints == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    def step(self, record: StepRecord) -> None: ...
    def evaluated(self, probe: Probe) -> None: ...
    def close(self) -> None: ...


def settings(steps: int, threads: int = 1) -> TrainSettings:
    return TrainSettings(
        name="tiny",
        steps=steps,
        accumulation=2,
        threads=threads,
        checkpoints=CheckpointSettings(every_steps=5, keep=2),
    )


def recipe(text: Path, threads: int = 1) -> Pretrain:
    """Two threads get rows that are long enough to be split; one has a model that is over at once."""
    rows, width = (2, 32) if threads == 1 else (8, 64)
    return Pretrain(
        PretrainSettings(
            data=DataSettings(paths=(text,), num_workers=1),
            vocab_size=300,
            batch_size=rows,
            seq_len=width,
            shape=ShapeSettings(hidden_size=width, num_layers=2, num_heads=2, num_kv_heads=1, mlp_size=48),
            evaluation=EvaluationSettings(times=2, probe_bytes=500, sample_tokens=4),
        )
    )


def train(root: Path, steps: int, mode: str, threads: int, pause_s: float, text: Path) -> None:
    workspace, listeners = open_workspace(root).create(), ()
    if mode == "dies":
        training.SAVE_EVERY_S = 3_600.0  # no save of its own in between
        listeners = (DiesAfterCheckpoint(),)
    with open_books(workspace) as books:
        host = Host(workspace, books, detect_machine(), Unhurried(pause_s), listeners)
        resume = "newest" if mode == "resume" else None
        run_training(settings(steps, threads), recipe(text, threads), host, resume=resume)


def main() -> None:
    root, steps, mode, threads, pause_s, text = sys.argv[1:]
    train(Path(root), int(steps), mode, int(threads), float(pause_s), Path(text))
