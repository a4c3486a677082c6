"""Imports everything once, then forks a training run for each line it reads: `<workspace> <steps> <resume>
<text>`.

Prints the child's pid, and when the child is gone its wait status. Forking before any torch thread runs is
safe.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuition.books.books import open_books
from tuition.core.progress import SilentProgress
from tuition.core.workspace import open_workspace
from tuition.data.settings import DataSettings
from tuition.spec.machine import detect_machine
from tuition.train.run import run_training
from tuition.train.settings import CheckpointSettings, EvaluationSettings, ShapeSettings, TrainSettings


class Unhurried(SilentProgress):
    """Leaves the parent a moment between steps, or the run is over before it can be killed."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        time.sleep(0.01)

    @contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[SilentProgress]:
        yield self if label == "teach" else SilentProgress()


def settings(text: Path, steps: int) -> TrainSettings:
    return TrainSettings(
        name="tiny",
        data=DataSettings(paths=(text,), num_workers=1),
        vocab_size=300,
        steps=steps,
        batch_size=2,
        seq_len=32,
        accumulation=2,
        threads=1,
        shape=ShapeSettings(hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, mlp_size=48),
        checkpoints=CheckpointSettings(every_steps=5, keep=2),
        evaluation=EvaluationSettings(times=2, probe_bytes=500, sample_tokens=4),
    )


def train(root: Path, steps: int, resume: bool, text: Path) -> None:
    workspace = open_workspace(root).create()
    with open_books(workspace) as books:
        run_training(settings(text, steps), workspace, books, detect_machine(), Unhurried(), resume=resume)


def main() -> None:
    for line in sys.stdin:
        root, steps, resume, text = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                train(Path(root), int(steps), resume == "resume", Path(text))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()
