"""Live progress bars on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.progress import Task as RichTask
from rich.text import Text

from tuition.core.progress import QUICK_S, LineProgress, Task, format_share
from tuition.core.progress import Progress as ProgressProtocol
from tuition.core.units import format_duration


def open_progress(stream: TextIO | None = None) -> ProgressProtocol:
    """Bars on a terminal, lines elsewhere; on stderr by default, since stdout is for the result."""
    chosen = stream or sys.stderr
    return LiveProgress(chosen) if chosen.isatty() else LineProgress(chosen)


class HeldBack:
    """A `core.progress.Progress` that shows details only after the work has taken `slow_s`."""

    def __init__(self, progress: ProgressProtocol, slow_s: float = 3.0) -> None:
        self._progress, self._slow_at = progress, time.monotonic() + slow_s
        self._held: list[str] = []

    def say(self, text: str) -> None:
        self._progress.say(text)

    def detail(self, text: str) -> None:
        self._held.append(text)
        if time.monotonic() >= self._slow_at:
            for line in self._held:
                self._progress.detail(line)
            self._held.clear()

    def task(self, label: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Task]:
        return self._progress.task(label, total, unit)


class BarsOnly:
    """A `core.progress.Progress` that shows how far the work is and says nothing: for verbs whose own output
    has it all."""

    def __init__(self, progress: ProgressProtocol) -> None:
        self._progress = progress

    def say(self, text: str) -> None:
        pass

    def detail(self, text: str) -> None:
        pass

    def task(self, label: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Task]:
        return self._progress.task(label, total, unit)


class _LiveTask:
    """One bar."""

    def __init__(self, bars: Progress, task_id: TaskID, total: float | None, unit: str) -> None:
        self._bars, self._id, self._total, self._unit = bars, task_id, total, unit
        self._done = 0.0

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._done += amount
        text = format_share(self._done, self._total, self._unit)
        if note:
            self._bars.update(self._id, advance=amount, amount=text, note=note)
        else:
            self._bars.update(self._id, advance=amount, amount=text)


class _Elapsed(TextColumn):
    """Time since the bar began."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: RichTask) -> Text:
        elapsed = task.finished_time or task.elapsed
        return Text("" if elapsed is None else format_duration(elapsed), style="dim")


class LiveProgress:
    """A `core.progress.Progress` drawn by rich: bars at the bottom, lines above them. A bar that was full
    within `quick_s` is removed."""

    def __init__(self, stream: TextIO, quick_s: float = QUICK_S) -> None:
        self.console = Console(file=stream, highlight=False)
        self.quick_s = quick_s
        self._lock = threading.Lock()
        self._bars: Progress | None = None
        self._open = 0

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def detail(self, text: str) -> None:
        self.say(text)

    @contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        started, bars = time.monotonic(), self._enter()
        task_id = bars.add_task(label, total=total, amount="", note="")
        try:
            yield _LiveTask(bars, task_id, total, unit)
        finally:
            bars.stop_task(task_id)
            bars.update(task_id, visible=time.monotonic() - started >= self.quick_s)
            self._leave()

    def _enter(self) -> Progress:
        with self._lock:
            if self._bars is None:
                self._bars = Progress(
                    TextColumn("  {task.description}", markup=False),
                    BarColumn(bar_width=28),
                    TextColumn("{task.fields[amount]}", markup=False),
                    TextColumn("{task.fields[note]}", style="dim", markup=False),
                    _Elapsed(),
                    console=self.console,
                    refresh_per_second=8,
                )
                self._bars.start()
            self._open += 1
            return self._bars

    def _leave(self) -> None:
        """The display stops with the last bar, which stays on the screen as it ended."""
        with self._lock:
            self._open -= 1
            if self._open == 0 and self._bars is not None:
                self._bars.stop()
                self._bars = None
