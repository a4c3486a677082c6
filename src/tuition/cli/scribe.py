"""Prints what the demo says and keeps it: lines go through the progress display, pieces straight out."""

import sys
from pathlib import Path
from typing import Any

from tuition.core.durable import write_durably

WIDTH = 98


class Scribe:
    """Prints for the reader and keeps what was printed; a `Progress` for what loops say."""

    def __init__(self, progress: Any) -> None:
        self.progress = progress
        self.kept: list[str] = []

    def say(self, text: str) -> None:
        """A line, or several."""
        self.kept.append(text + "\n")
        self.progress.say(text)

    def detail(self, text: str) -> None:
        """As `say`: the demo shows details, too."""
        self.say(text)

    def write(self, text: str) -> None:
        """A piece of a line, at once."""
        self.kept.append(text)
        sys.stdout.write(text)
        sys.stdout.flush()

    def task(self, label: str, total: float | None = None, unit: str = "") -> Any:
        """A progress bar; bars are not kept."""
        return self.progress.task(label, total, unit)

    def heading(self, text: str) -> None:
        """The title of a step."""
        self.say(f"\n── {text} " + "─" * max(0, WIDTH - len(text) - 4))

    def save(self, path: Path) -> None:
        """Write what was kept."""
        write_durably(path, "".join(self.kept))
