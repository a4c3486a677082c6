"""The process that renders a chat template, and what it may use.

In: jobs for `template_worker`.  Out: its replies, or `gone` if it ended over a job.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass
from typing import Any

_WORKER = "tuition.tokenizer.template_worker"


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
        self._pid = os.getpid()
        self._process = subprocess.Popen(  # noqa: S603 - our own script, no shell, nothing from outside in its arguments
            [sys.executable, "-P", "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._gone = False
        self._end = weakref.finalize(self, _end_process, self._process)

    @property
    def usable(self) -> bool:
        """False once it has ended, and in a forked child, which must not share its parent's pipes."""
        return not self._gone and self._pid == os.getpid() and self._process.poll() is None

    def close(self) -> None:
        if self._pid == os.getpid():
            self._end()
        else:
            self._end.detach()

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """Send a job, wait for its reply; `gone` if the process ended over it."""
        body = json.dumps(
            {**job, "growth_bytes": self._limits.growth_bytes, "cpu_s": self._limits.cpu_s}
        ).encode()
        try:
            self._write(b"%d\n%s" % (len(body), body))
            wall_s = self._limits.wall_s * max(1, len(job.get("beginnings", ())))
            return self._read(time.monotonic() + wall_s)
        except (OSError, ValueError, EOFError, TimeoutError):
            self._gone = True
            return {"error": "gone"}
        except BaseException:
            self._gone = True  # an answer nobody waits for must not become the next one's
            raise

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._process.stdin.write(view) or 0 :]  # type: ignore[union-attr]

    def _read(self, deadline: float) -> dict[str, Any]:
        received, size = b"", None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
            while size is None or len(received) < size:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                chunk = os.read(self._process.stdout.fileno(), 1 << 16)  # type: ignore[union-attr]
                if not chunk:
                    raise EOFError
                received += chunk
                if size is None and b"\n" in received:
                    header, _, received = received.partition(b"\n")
                    size = int(header)
        return json.loads(received)


def _end_process(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            pipe.close()  # type: ignore[union-attr]
    process.kill()
    process.wait()
