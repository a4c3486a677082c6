"""A process of our own answers requests; one that ends, hangs or is left behind harms no later request."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuition.core.worker import Worker

PROGRAM = """
import os, sys, time
from tuition.core.worker import read_parts, write_parts
while (parts := read_parts(sys.stdin.buffer)) is not None:
    if parts[0] == b"end":
        os._exit(3)
    if parts[0] == b"wait":
        time.sleep(60)
    write_parts(sys.stdout.buffer, [b"%d" % os.getpid(), *parts])
"""
WALL_S = 30


@pytest.fixture
def new_worker(tmp_path: Path) -> Iterator[Callable[[], Worker]]:
    path, made = tmp_path / "program.py", list[Worker]()
    path.write_text(PROGRAM)

    def start() -> Worker:
        made.append(Worker(str(path)))
        return made[-1]

    yield start
    for worker in made:
        worker.close()


@pytest.mark.parametrize("parts", [(b"a",), (b"", b"\n12\n", b""), (b"\x00\n" * 3_000_000, b"b")])
def test_parts_come_back_as_they_went(new_worker: Callable[[], Worker], parts: tuple[bytes, ...]) -> None:
    worker = new_worker()
    for _ in range(2):
        assert tuple(worker.ask(*parts, wall_s=WALL_S))[1:] == parts
    assert worker.usable


def test_a_process_that_ends_over_a_request_is_an_end_of_file(new_worker: Callable[[], Worker]) -> None:
    worker = new_worker()
    with pytest.raises(EOFError):
        list(worker.ask(b"end", wall_s=WALL_S))
    assert not worker.usable
    with pytest.raises(EOFError):
        list(worker.ask(b"a", wall_s=WALL_S))


@pytest.mark.parametrize("parts", [(b"wait",), (b"a" * 4_000_000,)], ids=["answers", "reads"])
def test_a_process_that_hangs_is_ended(new_worker: Callable[[], Worker], parts: tuple[bytes, ...]) -> None:
    """It does not answer, or it does not even read the request."""
    worker = new_worker()
    (pid, _) = worker.ask(b"a", wall_s=WALL_S)
    if parts != (b"wait",):
        os.kill(int(pid), signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        list(worker.ask(*parts, wall_s=0.2))
    assert time.monotonic() - begin < WALL_S
    assert not worker.usable
    assert not Path("/proc", pid.decode()).exists()


def test_a_reply_that_nobody_takes_is_not_the_next_ones(new_worker: Callable[[], Worker]) -> None:
    worker = new_worker()
    reply = worker.ask(b"a", b"b", wall_s=WALL_S)
    next(reply)
    reply.close()  # type: ignore[attr-defined]
    assert not worker.usable


def test_a_forked_child_does_not_use_and_does_not_end_it(new_worker: Callable[[], Worker]) -> None:
    worker = new_worker()
    (pid, _) = worker.ask(b"a", wall_s=WALL_S)
    child = os.fork()
    if child == 0:
        code = int(worker.usable)
        worker.close()
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert list(worker.ask(b"b", wall_s=WALL_S)) == [pid, b"b"]
