"""The independent meter of a training run: one window over the whole run, and the time outside all parts.

A run's bill adds up the windows of its steps and of its named overhead. This meter hands those windows out
and notes for itself how long no window was open. The whole window less that time must be the sum of the
parts: a window that the bill was never told, or was told twice, makes the two differ.
"""

import threading
from dataclasses import dataclass

from tuition.core.amount import NOTHING, Amount
from tuition.core.records import EnergyMethod, Window
from tuition.ledger.amount import amount_of
from tuition.ledger.meter import Instant, Meter


@dataclass(frozen=True, slots=True)
class WatchedTotals:
    """Totals of a watched meter from its opening to one instant."""

    meter: Amount
    """The whole window."""
    between: Amount
    """While no window was open."""
    running: Amount
    """Time of the window that is open now; 0 without one."""
    num_windows: int
    """Windows that have been closed."""
    witness_ns: int | None
    cpu_ns: int | None

    @property
    def busy(self) -> Amount:
        """Inside the closed windows."""
        return self.meter - self.between - self.running


class WatchedMeter:
    """See the module. A `Meter` for those who measure windows; thread-safe."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.machine, self.rate, self.witness = meter.machine, meter.rate, meter.witness
        self._lock = threading.Lock()
        self._open: dict[int, Instant] = {}
        self._between, self._num_windows = NOTHING, 0
        self._seen = meter.witness() if meter.witness is not None else None
        self._first = self._last = meter.instant()

    @property
    def method(self) -> EnergyMethod:
        return self._meter.method

    def read(self) -> int | None:
        return self._meter.read()

    def instant(self) -> Instant:
        return self._meter.instant()

    def between(self, begun: Instant, ended: Instant) -> Window:
        return self._meter.between(begun, ended)

    def start(self) -> int:
        with self._lock:
            now = self._meter.instant()
            if not self._open:
                self._between += self._amount(self._last, now)
                self._last = now
            key = now.time_ns
            while key in self._open:  # two windows of one clock tick
                key += 1
            self._open[key] = now
            return key

    def stop(self, start_ns: int) -> Window:
        with self._lock:
            now = self._meter.instant()
            begun = self._open.pop(start_ns)
            self._num_windows += 1
            if not self._open:
                self._last = now
            return self._meter.between(begun, now)

    def peek(self, start_ns: int) -> Window:
        with self._lock:
            return self._meter.between(self._open[start_ns], self._meter.instant())

    def totals(self) -> WatchedTotals:
        """Everything up to now."""
        with self._lock:
            now = self._meter.instant()
            rest = self._amount(self._last, now)
            seen = self._meter.witness() if self._meter.witness is not None else None
            ends = (None, None)
            if seen is not None and self._seen is not None:
                ends = (seen[0] - self._seen[0], seen[1] - self._seen[1])
            return WatchedTotals(
                meter=self._amount(self._first, now),
                between=self._between if self._open else self._between + rest,
                running=rest if self._open else NOTHING,
                num_windows=self._num_windows,
                witness_ns=ends[0],
                cpu_ns=ends[1],
            )

    def _amount(self, begun: Instant, ended: Instant) -> Amount:
        return amount_of(self._meter.between(begun, ended))
