"""A user's own function that judges replies, in a process with limits on time and memory and no network.

In: items and replies.  Out: scores from 0 to 1. After a reply that broke a limit, a new process is started.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tuition.core.errors import DataError
from tuition.core.worker import Worker

_WORKER = Path(__file__).with_name("function_worker.py")


@dataclass(frozen=True)
class FunctionLimits:
    """Limits of the judgement of one reply."""

    wall_s: float = 10.0
    memory_mb: int = 2_048
    """Address space of the process."""


class FunctionProcess:
    """Calls `function(item, reply)`; use it with `with`."""

    def __init__(self, file: Path, name: str, limits: FunctionLimits = FunctionLimits()) -> None:
        self._file, self._name, self._limits = file, name, limits
        self._worker: Worker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def score(self, item: Any, reply: str) -> tuple[float, str | None]:
        """The score, and the limit that was broken or None. A reply that breaks a limit gets 0.

        Raises: DataError where the function fails or returns something else than a score.
        """
        job = json.dumps({"item": item, "reply": reply}).encode()
        answer = self._ask(job)
        if "error" in answer:
            problem = f"{self._name} failed: {answer['error']}"
            raise DataError(self._file, problem, way_out="correct the function")
        return answer.get("score", 0.0), answer.get("limit")

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def _ask(self, job: bytes) -> dict[str, Any]:
        if self._worker is None or not self._worker.usable:
            self.close()
            self._worker = Worker(str(_WORKER), str(self._file), self._name, str(self._limits.memory_mb))
        try:
            (answer,) = self._worker.ask(job, wall_s=self._limits.wall_s)
        except TimeoutError:
            return {"limit": f"took more than {self._limits.wall_s:g} s"}
        except EOFError:
            return {"limit": "ended the process that judges"}
        return json.loads(answer)
