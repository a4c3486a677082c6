"""One lock file for writers of any process and any thread on one machine.

The kernel frees the lock when its holder dies: a killed process never leaves it behind. POSIX only (`flock`).
"""

import fcntl
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tuition.core.errors import BusyError


class FileLock:
    """Exclusive lock on a file, usable with `with`; not reentrant. Raises: BusyError after `timeout_s`."""

    def __init__(self, path: Path, timeout_s: float = 30.0) -> None:
        self.path, self.timeout_s = path, timeout_s
        self._thread_lock = threading.Lock()
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self.timeout_s
        if not self._thread_lock.acquire(timeout=self.timeout_s):
            raise BusyError(f"{self.path} is held by another thread", retry_after_s=1)
        descriptor = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._descriptor = descriptor
                    return self
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise BusyError(f"{self.path} is held by another process", retry_after_s=1) from None
                    time.sleep(0.002)
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            self._thread_lock.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with suppress(OSError):  # Linux frees lock and descriptor also when close reports an error
                os.close(descriptor)
        self._thread_lock.release()
