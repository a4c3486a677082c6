"""A second clock and the CPU time of this process: compared with the meter's own clock.

The meter reads the steered monotonic clock. The witness reads the kernel's raw one, which no time service
steers, and what CPU time the kernel has counted for this process. A meter's clock that jumps or stands still
differs from them.
"""

import time
from collections.abc import Callable

Witness = Callable[[], tuple[int, int]]
"""Gives ns of the second clock and ns of CPU time of this process, all threads."""

_RAW_CLOCK = getattr(time, "CLOCK_MONOTONIC_RAW", None)


def process_witness() -> tuple[int, int]:
    """The witness of this process."""
    wall_ns = time.perf_counter_ns() if _RAW_CLOCK is None else time.clock_gettime_ns(_RAW_CLOCK)
    return wall_ns, time.process_time_ns()


def witness_of(clock: Callable[[], int]) -> Witness | None:
    """The process's witness for the real clock; None for another clock, whose time is not the process's."""
    return process_witness if clock is time.monotonic_ns else None
