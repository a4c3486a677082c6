"""The process that renders a chat template, and what it may use.

In: jobs for `template_worker`.  Out: its replies, or `gone` if it ended over a job.
"""

import json
from dataclasses import dataclass
from typing import Any

from tuition.core.worker import Worker


@dataclass(frozen=True)
class TemplateLimits:
    """What one rendering may use."""

    fuel: int = 20_000
    """Template instructions; a conversation adds `fuel_per_message` for each of its messages."""
    fuel_per_message: int = 500
    cpu_s: float = 0.1
    """Processor time."""
    wall_s: float = 5.0
    """For a machine that is too busy to give that processor time."""
    growth_bytes: int = 24 * 2**20
    """Address space above what the worker holds before; long conversations get a multiple of their own size
    on top."""
    max_bytes: int = 2**20
    """Of the text that comes out; a conversation may come out at up to twice its own size on top."""


class TemplateProcess:
    """The process that renders; one conversation at a time."""

    def __init__(self, limits: TemplateLimits) -> None:
        self._limits = limits
        self._worker = Worker("-m", "tuition.tokenizer.template_worker")

    @property
    def usable(self) -> bool:
        """False once it has ended, and in a forked child."""
        return self._worker.usable

    def close(self) -> None:
        self._worker.close()

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """Send a job, wait for its reply; `gone` if the process ended over it."""
        limits = {"growth_bytes": self._limits.growth_bytes, "cpu_s": self._limits.cpu_s}
        wall_s = self._limits.wall_s * max(1, len(job.get("beginnings", ())))
        try:
            (reply,) = self._worker.ask(json.dumps(job | limits).encode(), wall_s=wall_s)
        except (EOFError, TimeoutError):
            return {"error": "gone"}
        return json.loads(reply)
