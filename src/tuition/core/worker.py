"""A program of ours that works in a process of its own, and what is asked of it.

In: requests.  Out: replies. Both are lists of byte strings: a line with their sizes, then the bytes.
`Worker` is the side that asks; the program answers with `read_parts` and `write_parts`.
"""

import contextlib
import os
import selectors
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import IO

_CHUNK_BYTES = 1 << 20


class Worker:
    """A Python process that answers one request at a time. It ends with the object, or with `close`."""

    def __init__(self, *arguments: str) -> None:
        """`arguments`: those of the interpreter, as ("-m", module)."""
        self._pid = os.getpid()
        self._process = subprocess.Popen(  # noqa: S603 - our own program, no shell
            [sys.executable, "-P", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        os.set_blocking(self._process.stdin.fileno(), False)  # type: ignore[union-attr]
        self._received = bytearray()
        self.close = weakref.finalize(self, _end, self._process, self._pid)
        """End the process, which no other thread may be asking meanwhile: `kill` it first."""

    @property
    def usable(self) -> bool:
        """False once it has ended, and in a forked child, which must not share its parent's pipes."""
        return self.close.alive and self._pid == os.getpid() and self._process.poll() is None

    def kill(self) -> None:
        """End the process. Who waits for its reply gets an EOFError."""
        self._process.kill()

    def ask(self, *parts: bytes, wall_s: float) -> Iterator[bytes]:
        """Send a request; yields the parts of the reply.

        The process is ended if its reply is not taken to the end: it must not become the next one's.
        Raises: EOFError if the process ended over it, TimeoutError if it took more than `wall_s`.
        """
        deadline, done = time.monotonic() + wall_s, False
        try:
            self._write(_head(parts), deadline)
            for part in parts:
                self._write(part, deadline)
            for size in map(int, self._take_line(deadline).split()):
                yield self._take(size, deadline)
            done = True
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:
            raise EOFError(str(error)) from None
        finally:
            if not done:
                self.close()

    def _write(self, data: bytes, deadline: float) -> None:
        view, pipe = memoryview(data), self._process.stdin
        while view:
            _wait(pipe, selectors.EVENT_WRITE, deadline)
            view = view[pipe.write(view) or 0 :]  # type: ignore[union-attr]

    def _take_line(self, deadline: float) -> bytes:
        while (end := self._received.find(b"\n")) < 0:
            self._receive(deadline)
        return self._cut(end + 1)

    def _take(self, size: int, deadline: float) -> bytes:
        while len(self._received) < size:
            self._receive(deadline)
        return self._cut(size)

    def _cut(self, size: int) -> bytes:
        part = bytes(self._received[:size])
        del self._received[:size]
        return part

    def _receive(self, deadline: float) -> None:
        pipe = self._process.stdout
        _wait(pipe, selectors.EVENT_READ, deadline)
        chunk = os.read(pipe.fileno(), _CHUNK_BYTES)  # type: ignore[union-attr]
        if not chunk:
            raise EOFError
        self._received += chunk


def read_parts(source: IO[bytes]) -> list[bytes] | None:
    """The parts of the next request; None where there are no more."""
    parts = []
    head = source.readline()
    for size in map(int, head.split()):
        parts.append(source.read(size))
        if len(parts[-1]) < size:
            return None
    return parts if head else None


def write_parts(sink: IO[bytes], parts: Sequence[bytes]) -> None:
    """Send a reply."""
    sink.write(_head(parts))
    for part in parts:
        sink.write(part)
    sink.flush()


def _head(parts: Sequence[bytes]) -> bytes:
    return " ".join(str(len(part)) for part in parts).encode() + b"\n"


def _wait(pipe: IO[bytes] | None, event: int, deadline: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, event)  # type: ignore[arg-type]
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise TimeoutError


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if owner == os.getpid():
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            pipe.close()  # type: ignore[union-attr]
