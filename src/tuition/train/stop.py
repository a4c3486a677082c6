"""Ctrl-C and SIGTERM during training: the current step is finished, then the run saves and ends.

In: signals.  Out: a flag that the run reads between two steps, and one line for the user at once.
A second signal raises KeyboardInterrupt where the program is.
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """`with StopRequest(announce) as stop: ... if stop.requested: break`. Outside the main thread it never
    fires.

    `announce` is called with the name of the first signal, from a separate thread: the main thread runs a
    Python handler only when its current C call returns, which takes seconds while a checkpoint is written.
    """

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.requested: str | None = None
        """Name of the signal that came."""
        self._announce = announce
        self._before: dict[int, Any] = {}
        self._watcher: threading.Thread | None = None
        self._write_end = self._wakeup_before = -1

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name

    def _watch(self, read_end: int) -> None:
        """Announce the first signal; the interpreter writes one byte per signal."""
        is_announced = False
        with open(read_end, "rb", buffering=0) as pipe:
            while numbers := pipe.read(1):
                if numbers[0] in SIGNALS and not is_announced:
                    is_announced = True
                    self._announce(signal.Signals(numbers[0]).name)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            read_end, self._write_end = os.pipe()
            os.set_blocking(self._write_end, False)  # a full pipe must not stop the signal handler
            self._watcher = threading.Thread(
                target=self._watch, args=(read_end,), name="stop-watcher", daemon=True
            )
            self._watcher.start()
            self._wakeup_before = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watcher is None:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._write_end)
        self._watcher.join()
