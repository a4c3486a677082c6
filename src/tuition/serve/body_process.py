"""The process that reads large bodies, and what the server asks of it.

In: a raw body and its limits.  Out: the request, or the error of the caller. Parsing and validating a million
values in the serving process would hold its interpreter, and every stream, for half a second.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import astuple
from typing import Any, TypeVar

from tuition.serve.bounds import BodyLimits
from tuition.serve.errors import ApiError, overloaded
from tuition.serve.protocol import Common, read_request

_WORKER = "tuition.serve.body_worker"
_WALL_S = 30.0
"""For one body; a full one takes less than a second where a core is free."""
_PAUSE_S = 0.0005
"""Between lists of token ids: other threads get the interpreter meanwhile."""

Body = TypeVar("Body", bound=Common)


class BodyProcess:
    """A process that is started by the first large body and again when it has ended. One body at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def read(self, kind: type[Body], raw: bytes, limits: BodyLimits) -> Body:
        """The body as a `kind`. Raises: ApiError with what the checks of a small body would say."""
        models = {name: astuple(model) for name, model in limits.models.items()}
        job = {"kind": kind.__name__, "max_sequences": limits.max_sequences, "models": models}
        first, *prompts = self._ask(job, raw)
        request = read_request(kind, first["fields"])
        return request.model_copy(update={"prompt": tuple(prompts)}) if prompts else request

    def fields(self, raw: bytes) -> dict[str, Any]:
        """The JSON object in `raw`. Raises: ApiError, also if it holds too many values beside `tokens`."""
        first, *slices = self._ask({"kind": None}, raw)
        tokens = list[int]()
        for some in slices:
            tokens += some
        return first["fields"] | ({"tokens": tokens} if slices else {})

    def close(self) -> None:
        """End the process. A body that it reads meanwhile is answered with an error."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            with self._lock:  # who waits for its answer sees the end of it first
                worker.end()

    def _ask(self, job: dict[str, Any], raw: bytes) -> list[Any]:
        with self._lock:
            for _ in range(2):  # the process may have been killed before this body, or because of it
                worker = self._worker
                if worker is None or not worker.is_alive:
                    worker = self._worker = _Worker()
                try:
                    parts = list(worker.ask(job, raw))
                    break
                except (OSError, ValueError, EOFError):
                    worker.end()
                    if self._worker is not worker:  # closed
                        raise overloaded(
                            "the server is stopping; try another one, or again later", 5
                        ) from None
                except BaseException:
                    worker.end()  # an answer nobody waits for must not become the next one's
                    raise
            else:
                raise overloaded("the process that reads large bodies ended twice over this one", 1)
        if "bug" in parts[0]:
            raise RuntimeError(f"reading a large body failed with {parts[0]['bug']}")
        if "error" in parts[0]:
            raise ApiError(**parts[0]["error"])
        return parts


class _Worker:
    def __init__(self) -> None:
        self._pid = os.getpid()
        self._process = subprocess.Popen(  # noqa: S603 - our own script, no shell, nothing from outside in its arguments
            [sys.executable, "-P", "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._received = bytearray()
        self.end = weakref.finalize(self, _end_process, self._process)

    @property
    def is_alive(self) -> bool:
        """False also in a forked child, which must not share its parent's pipes."""
        return self._pid == os.getpid() and self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def ask(self, job: dict[str, Any], raw: bytes) -> Iterator[Any]:
        """The parts of the answer. Raises: OSError, ValueError or EOFError if the process ended over it."""
        self._write(json.dumps({**job, "size": len(raw)}).encode() + b"\n")
        self._write(raw)
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
            deadline = time.monotonic() + _WALL_S
            first = self._part(selector, deadline)
            yield first
            for _ in range(first.get("num_lists", 0)):
                yield tuple(self._part(selector, deadline))
                time.sleep(_PAUSE_S)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._process.stdin.write(view) or 0 :]  # type: ignore[union-attr]

    def _part(self, selector: selectors.BaseSelector, deadline: float) -> Any:
        while (end := self._received.find(b"\n", 0, 32)) < 0:
            self._receive(selector, deadline)
        size = int(self._received[:end])
        while len(self._received) < end + 1 + size:
            self._receive(selector, deadline)
        data = bytes(self._received[end + 1 : end + 1 + size])
        del self._received[: end + 1 + size]
        return json.loads(data)

    def _receive(self, selector: selectors.BaseSelector, deadline: float) -> None:
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        chunk = os.read(self._process.stdout.fileno(), 1 << 20)  # type: ignore[union-attr]
        if not chunk:
            raise EOFError
        self._received += chunk


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            pipe.close()  # type: ignore[union-attr]
