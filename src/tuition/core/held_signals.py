"""Work that Ctrl-C must not cut in two: the signal takes effect at the end of it.

held = HeldSignals()
with held:              # puts the handlers in place, once for all pieces of work inside
    for piece in pieces:
        with held:      # a signal that has come takes effect at the end of this piece
            piece()
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

NUMBERS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name))


class HeldSignals:
    """Inside, a signal with a Python handler waits for the end of a block; a second one takes effect at once.

    Does nothing outside of the main thread, which alone gets signals.
    """

    def __init__(self) -> None:
        self._before: dict[int, Handler] = {}
        self._came: list[tuple[int, FrameType | None]] = []
        self._depth = 0

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        if not self._depth:
            self._before = {number: handler for number in NUMBERS if (handler := self._handler_of(number))}
            for number in self._before:
                signal.signal(number, self._note)
        self._depth += 1

    def __exit__(self, *error: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._depth -= 1
        if not self._depth:
            for number, handler in self._before.items():
                signal.signal(number, handler)
        came, self._came = self._came, []
        if len(came) == 1:
            number, frame = came[0]
            self._before[number](number, frame)

    def _handler_of(self, number: int) -> Handler | None:
        """Ours is in place where a signal has cut `__enter__` or `__exit__` short."""
        handler = signal.getsignal(number)
        if handler == self._note:
            return self._before[number]
        return handler if callable(handler) else None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came.append((number, frame))
        if len(self._came) > 1:
            self._before[number](number, frame)
