"""A user's own function that judges replies, in a process with limits on time and memory and no network.

In: items and replies.  Out: scores from 0 to 1. The process starts again after a reply that broke a limit.
"""

import contextlib
import json
import selectors
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tuition.core.errors import DataError

_WORKER = Path(__file__).with_name("function_worker.py")


@dataclass(frozen=True)
class FunctionLimits:
    """What judging one reply may use."""

    wall_s: float = 10.0
    memory_mb: int = 2_048
    """Address space of the process."""


class FunctionProcess:
    """Calls `function(item, reply)`; use it with `with`."""

    def __init__(self, file: Path, name: str, limits: FunctionLimits = FunctionLimits()) -> None:
        self._file, self._name, self._limits = file, name, limits
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def score(self, item: Any, reply: str) -> tuple[float, str | None]:
        """A score, and the limit that was broken: such a reply has the score 0.

        Raises: DataError where the function fails or returns something else than a score.
        """
        job = json.dumps({"item": item, "reply": reply}).encode() + b"\n"
        answer = self._ask(job)
        if "error" in answer:
            problem = f"{self._name} failed: {answer['error']}"
            raise DataError(self._file, problem, way_out="mend the function")
        return answer.get("score", 0.0), answer.get("limit")

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            self._process = None

    def _ask(self, job: bytes) -> dict[str, Any]:
        process = self._process = self._process or self._start()
        try:
            process.stdin.write(job)  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
                if not selector.select(self._limits.wall_s):
                    self.close()
                    return {"limit": f"took more than {self._limits.wall_s:g} s"}
            line = process.stdout.readline()  # type: ignore[union-attr]
        except BrokenPipeError:
            line = b""
        except BaseException:
            self.close()
            raise
        if not line.endswith(b"\n"):
            self.close()
            return {"limit": "ended the process that judges"}
        return json.loads(line)

    def _start(self) -> subprocess.Popen[bytes]:
        """The interpreter without our packages' folder at the front of its path."""
        return subprocess.Popen(  # noqa: S603 - our own script with a file that the user named, no shell
            [sys.executable, "-P", str(_WORKER), str(self._file), self._name, str(self._limits.memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
