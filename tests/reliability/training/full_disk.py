"""A training run on a disk that is full for some of its steps: `full_disk.py <workspace> <text>`.

Full by RLIMIT_FSIZE: the kernel refuses every write beyond a few bytes of any file, in checkpoints, logs and
books alike. Prints the result as one line of JSON.
"""

import json
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reliability.training.small_run import recipe, settings
from tuition.books.books import open_books
from tuition.core.progress import SilentProgress
from tuition.core.workspace import open_workspace
from tuition.spec.machine import detect_machine
from tuition.train import listeners
from tuition.train.run import Host, run_training

FULL_FROM, FULL_UNTIL, STEPS = 7, 22, 40
"""Checkpoints are due every 5 steps, so three of them meet the full disk."""
_, HARD = resource.getrlimit(resource.RLIMIT_FSIZE)


class Disk(SilentProgress):
    """Fills and empties the disk as the run advances."""

    def __init__(self) -> None:
        self.steps = 0
        self.said: list[str] = []

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.steps += round(amount)
        is_full = FULL_FROM <= self.steps < FULL_UNTIL
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000 if is_full else HARD, HARD))

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[SilentProgress]:
        yield self if label == "teach" else SilentProgress()


def main() -> None:
    root, text = map(Path, sys.argv[1:])
    listeners.FLUSH_EVERY_S = 0.0
    workspace, disk = open_workspace(root).create(), Disk()
    with open_books(workspace) as books:
        host = Host(workspace, books, detect_machine(), disk)
        result = run_training(settings(STEPS), recipe(text), host)
    told = {"status": result.status, "alarms": result.alarms, "said": disk.said}
    print(json.dumps(told | {"full": (FULL_FROM, FULL_UNTIL), "steps": STEPS}))
