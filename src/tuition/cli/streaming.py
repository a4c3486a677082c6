"""A reply on the terminal as it comes, and Ctrl-C that ends it without losing what was said."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from tuition.engine.service import Stream

_ORDERS = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"
}
"""Control characters, by which a text moves the cursor, renames the window or writes to the clipboard."""


def show(text: str) -> None:
    """A piece of the reply, at once: a terminal gets no orders from a model, a file gets what was said."""
    sys.stdout.write(text.translate(_ORDERS) if sys.stdout.isatty() else text)
    sys.stdout.flush()


@contextlib.contextmanager
def cancelled_by_ctrl_c(stream: Stream) -> Iterator[None]:
    """Ctrl-C ends the stream instead of raising, so that no event is lost on the way."""

    def cancel(number: int, frame: FrameType | None) -> None:
        stream.cancel()

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
