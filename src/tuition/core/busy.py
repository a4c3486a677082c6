"""Busy time of a worker: the summed length of the pieces of work that it marks.

A worker (the engine's step loop) marks its work here with the same two clock readings that its trace
carries. The ledger compares this sum with the time that it has split from the traces. They differ if a
trace is lost, reported twice or overlaps another.
"""

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BusyReading:
    """The totals at one moment."""

    now_ns: int
    busy_ns: int
    """Sum of all pieces that have ended."""
    num_pieces: int
    """How many have ended."""
    since_ns: int | None
    """When the piece that runs now began; None between two pieces."""


class BusyMarks:
    """See the module. One thread marks; any thread reads."""

    __slots__ = ("_busy_ns", "_floor_ns", "_lock", "_num_pieces", "_since_ns")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy_ns = self._num_pieces = self._floor_ns = 0
        self._since_ns: int | None = None

    def begin(self, now_ns: int) -> None:
        """Mark the start of a piece of work."""
        self._since_ns = now_ns

    def end(self, start_ns: int, end_ns: int) -> None:
        """A piece of work has ended; it counts from `start_ns`, or from the last `cut` if that was later."""
        with self._lock:
            self._busy_ns += max(0, end_ns - max(start_ns, self._floor_ns))
            self._num_pieces += 1
            self._since_ns = None

    def read(self, now_ns: int) -> BusyReading:
        """The totals now."""
        with self._lock:
            return BusyReading(now_ns, self._busy_ns, self._num_pieces, self._since_ns)

    def cut(self, now_ns: int, *, also_inside: bool = False) -> BusyReading | None:
        """End a window at `now_ns`: of a piece that began before and ends later, only what follows counts.

        None, and nothing is cut, while a piece runs, unless `also_inside`.
        """
        with self._lock:
            if self._since_ns is not None and not also_inside:
                return None
            self._floor_ns = max(self._floor_ns, now_ns)
            return BusyReading(now_ns, self._busy_ns, self._num_pieces, self._since_ns)
