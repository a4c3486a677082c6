"""Progress as loops report it. Loops get a `Progress`; the command line decides how it looks.

Two kinds need no library: plain lines, and no output. The live terminal is in `cli/terminal`.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from tuition.core.units import format_bytes, format_count, format_duration

QUICK_S = 1.0
"""What is done sooner than this was not waited for, and leaves nothing behind."""


class Task(Protocol):
    """One piece of work with a known or unknown length."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Count `amount` more units done; `note` replaces the text behind the bar."""
        ...


class Progress(Protocol):
    """Receives the progress of loops."""

    def say(self, text: str) -> None:
        """One line for the reader."""
        ...

    def detail(self, text: str) -> None:
        """One line of technical detail, shown on request or if loading is slow."""
        ...

    def task(self, label: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Task]:
        """`with progress.task("tokenize", total, "B") as task: task.advance(n)`. `total`: None, unknown."""
        ...


def format_amount(amount: float, unit: str) -> str:
    """`3.2 MiB` for unit B, `12.0 s` for unit s, `4.9 k tokens` otherwise."""
    if unit == "B":
        return format_bytes(amount)
    if unit == "s":
        return format_duration(amount)
    return f"{format_count(amount)} {unit}".rstrip()


def format_share(done: float, total: float | None, unit: str) -> str:
    """`3.2 MiB of 4.0 MiB`, `12 of 30 steps`; without a total, what is done."""
    if not total:
        return format_amount(done, unit)
    return f"{format_amount(done, unit if unit in ('B', 's') else '')} of {format_amount(total, unit)}"


@dataclass
class _LineTask:
    label: str
    total: float | None
    unit: str
    stream: TextIO
    every_s: float
    done: float = 0
    note: str = ""
    started: float = field(default_factory=time.monotonic)
    printed: float = field(default_factory=time.monotonic)
    is_news: bool = True
    """Whether anything has happened since the last line."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done += amount
        self.note = note or self.note
        self.is_news = True
        if time.monotonic() - self.printed >= self.every_s:
            self.print()

    def print(self) -> None:
        self.printed, self.is_news = time.monotonic(), False
        amount = format_share(self.done, self.total, self.unit) if self.done else ""
        if self.total:
            amount = f"{min(1.0, self.done / self.total):4.0%}  {amount}".rstrip()
        elapsed = format_duration(self.printed - self.started)
        parts = [part for part in (amount, self.note, f"[{elapsed}]") if part]
        print(f"  {self.label}: {'  '.join(parts)}", file=self.stream, flush=True)


class LineProgress:
    """Plain lines, for logs and pipes: one every `every_s` seconds for each task, and one when it ends,
    unless that was within `quick_s`."""

    def __init__(self, stream: TextIO | None = None, every_s: float = 10.0, quick_s: float = QUICK_S) -> None:
        self.stream, self.every_s, self.quick_s = stream or sys.stderr, every_s, quick_s

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def detail(self, text: str) -> None:
        self.say(text)

    @contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        task = _LineTask(label, total, unit, self.stream, self.every_s)
        try:
            yield task
        finally:
            if task.is_news and time.monotonic() - task.started >= self.quick_s:
                task.print()


class SilentProgress:
    """Prints nothing; for library use and tests."""

    def say(self, text: str) -> None:
        pass

    def detail(self, text: str) -> None:
        pass

    def advance(self, amount: float = 1, note: str = "") -> None:
        pass

    @contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        yield self
