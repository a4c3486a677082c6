"""CPU time used by other processes, which explains why the same request can take longer.

The kernel counts CPU time of the whole machine (`/proc/stat`) and of this process; the difference is other
work. Samples are taken when a request is charged and once a second, never inside a step.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
SAMPLE_NS = 200_000_000
"""Between two samples at least: the kernel counts in steps of about 10 ms for each CPU."""
KEPT = 600
"""Samples: some minutes."""
PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class LoadSample:
    """Running totals at one moment, in ns of CPU time."""

    time_ns: int
    capacity_ns: int
    """CPU time that all CPUs of the machine could give."""
    others_ns: int
    """CPU time used by other processes or taken by the hypervisor."""


def read_load(now_ns: int) -> LoadSample | None:
    """The totals now; None where the kernel does not report them."""
    try:
        first = STAT.read_text(encoding="ascii").split("\n", 1)[0].split()
        ticks = [int(word) for word in first[1:9]]  # user nice system idle iowait irq softirq steal
    except (OSError, ValueError, IndexError):
        return None
    if len(ticks) < 8:
        return None
    capacity = sum(ticks)
    busy = capacity - ticks[3] - ticks[4]
    tick_ns = 10_000_000
    return LoadSample(now_ns, capacity * tick_ns, busy * tick_ns - time.process_time_ns())


class MachineLoad:
    """See the module. One thread at a time."""

    def __init__(self, read: Callable[[int], LoadSample | None] = read_load) -> None:
        self._read = read
        self._samples: deque[LoadSample] = deque(maxlen=KEPT)

    def sample(self, now_ns: int) -> None:
        """Take a sample, unless the last one is fresh."""
        if self._samples and now_ns - self._samples[-1].time_ns < SAMPLE_NS:
            return
        sample = self._read(now_ns)
        if sample is not None:
            self._samples.append(sample)

    def others_ppm(self, start_ns: int, end_ns: int) -> int | None:
        """Share of the machine's CPUs that other work had about then, in millionths; None if unknown.

        Between the last sample before the start and the first one after the end.
        """
        if len(self._samples) < 2:
            return None
        first, last = self._samples[0], self._samples[-1]
        for sample in reversed(self._samples):
            if sample.time_ns >= end_ns:
                last = sample
            if sample.time_ns <= start_ns and sample.time_ns < last.time_ns:
                first = sample
                break
        capacity = last.capacity_ns - first.capacity_ns
        if capacity <= 0:
            return None
        return max(0, min(PPM, (last.others_ns - first.others_ns) * PPM // capacity))
