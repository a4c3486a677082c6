"""The file lock: one holder among threads and processes, freed by the kernel when its holder is killed."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tuition.core.errors import BusyError
from tuition.core.lock import FileLock

HOLDER = (
    "import sys, time\nfrom pathlib import Path\nfrom tuition.core.lock import FileLock\n"
    "with FileLock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
)


def test_a_second_process_waits_and_a_killed_holder_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(BusyError, match="another process"), FileLock(path, timeout_s=0.1):
            pass
        holder.kill()
        holder.wait()
        with FileLock(path, timeout_s=5):
            pass


def test_only_one_thread_is_inside(tmp_path: Path) -> None:
    inside, most = 0, 0
    lock = FileLock(tmp_path / "lock")

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with lock:
                inside += 1
                most = max(most, inside)
                time.sleep(0.0002)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_an_error_inside_frees_the_lock(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock", timeout_s=0.1)
    with pytest.raises(KeyError), lock:
        raise KeyError
    with lock:
        pass


def test_a_busy_thread_lock_is_told_apart(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock", timeout_s=0.05)
    with lock, pytest.raises(BusyError, match="another thread"), lock:
        pass


def test_a_release_that_fails_does_not_undo_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """close(2) may report an error of the disk; the lock is free all the same."""
    lock, close = FileLock(tmp_path / "lock", timeout_s=1.0), os.close

    def close_badly(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    with lock:
        monkeypatch.setattr(os, "close", close_badly)
    monkeypatch.undo()
    with lock:
        pass
