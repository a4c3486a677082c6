"""Where a reply ends: stop texts found across token borders, and the text that may be shown so far.

In: token ids, one by one.  Out: text that can no longer become part of a stop text.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol


class TextStream(Protocol):
    """What `tokenizer.stream()` gives: ids in, text out, never half a character."""

    def push(self, token_id: int) -> str: ...
    def push_all(self, token_ids: Iterable[int]) -> str: ...
    def finish(self) -> str: ...


def held_length(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that is a true beginning of some stop text."""
    longest = max(map(len, stops), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        end = text[-length:]
        if any(stop.startswith(end) for stop in stops):
            return length
    return 0


def find_stop(text: str, stops: Sequence[str]) -> int:
    """Where the earliest stop text begins in `text`, or -1."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return min(places, default=-1)


class ReplyText:
    """The text of one reply as it grows; `stopped` once a stop text was met, which is not part of it."""

    __slots__ = ("_held", "_stops", "_stream", "stopped")

    def __init__(self, stream: TextStream, stops: Sequence[str]) -> None:
        self._stream, self._stops = stream, tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that can be shown after this token."""
        text = self._stream.push(token_id)
        return self._admit(text) if self._stops else text

    def push_until_stop(self, token_ids: Sequence[int]) -> tuple[str, int]:
        """`push` for many ids, up to the one that completes a stop text: the text, and how many were read."""
        if not self._stops:
            return self._stream.push_all(token_ids), len(token_ids)
        text = ""
        for count, token_id in enumerate(token_ids, 1):
            text += self.push(token_id)
            if self.stopped:
                return text, count
        return text, len(token_ids)

    def finish(self) -> str:
        """The held text, when the reply ends without a stop text."""
        if self.stopped:
            return ""
        text = self._stream.finish()
        if self._stops:
            text = self._admit(text) + self._held
            self._held = ""
        return text

    def _admit(self, text: str) -> str:
        if not text:
            return ""
        text = self._held + text
        place = find_stop(text, self._stops)
        if place >= 0:
            self.stopped, self._held = True, ""
            return text[:place]
        keep = held_length(text, self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]
