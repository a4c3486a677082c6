"""Meters: how long, how many joules, how much money. Measured where a counter can be read, else modelled.

`nvml`: the card's own energy counter (the host is not in it). `rapl`: processor packages and their memory.
`modelled`: declared full power x busy time. Counters tick slowly (NVML about every 100 ms); between ticks a
reading goes on at the last measured power and never runs backwards, so it is off by at most one tick.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pynvml

from tuition.core.records import EnergyMethod, Window
from tuition.ledger.rates import Rate
from tuition.ledger.witness import Witness, witness_of
from tuition.spec.machine import Machine

POWERCAP = Path("/sys/class/powercap")

LONGEST_EXTRAPOLATION_NS = 200_000_000
"""Two ticks of NVML: a counter without change for longer than this is not extrapolated further."""


class Meter(Protocol):
    """Opens and closes windows, and reads its counter for those who keep their own account."""

    machine: Machine
    rate: Rate

    @property
    def method(self) -> EnergyMethod:
        """How energy is obtained at present."""
        ...

    def start(self) -> int:
        """Open a window; returns its start on the monotonic clock, ns."""
        ...

    def stop(self, start_ns: int) -> Window:
        """Close the window that began at start_ns. Each start is closed once; windows may be nested."""
        ...

    def peek(self, start_ns: int) -> Window:
        """The window so far; it stays open."""
        ...

    def read(self) -> int | None:
        """Running total of the energy counter now, uJ; None where there is none (modelled)."""
        ...

    def instant(self) -> "Instant":
        """Clock and energy now."""
        ...

    def between(self, begun: "Instant", ended: "Instant") -> Window:
        """The window between two instants; exact under splitting."""
        ...

    @property
    def witness(self) -> Witness | None:
        """A second clock to compare with this meter's clock."""
        ...


@dataclass(frozen=True, slots=True)
class Instant:
    """One reading of a meter."""

    time_ns: int
    energy_uj: int
    """A running total; for a modelled meter that of full power since the clock's zero."""


def modelled_uj(watts: float, start_ns: int, end_ns: int) -> int:
    """Energy of a constant power between two times of one clock, uJ; exact under splitting."""
    milliwatts = round(watts * 1e3)
    return milliwatts * end_ns // 10**6 - milliwatts * start_ns // 10**6


def window_between(rate: Rate, method: EnergyMethod, begun: Instant, ended: Instant) -> Window:
    """The window between two readings. Money is a difference of running totals, so windows add exactly."""
    cost = rate.of_time(begun.time_ns, ended.time_ns) + rate.of_energy(begun.energy_uj, ended.energy_uj)
    wall_ns, energy_uj = ended.time_ns - begun.time_ns, ended.energy_uj - begun.energy_uj
    return Window(begun.time_ns, wall_ns, energy_uj, method, cost)


class ModelledMeter:
    """Declared full power x time: for machines without a readable counter, most virtual ones."""

    method: EnergyMethod = "modelled"

    def __init__(self, machine: Machine, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.machine, self.rate, self._clock = machine, Rate.from_machine(machine), clock
        self.witness = witness_of(clock)

    def start(self) -> int:
        return self._clock()

    def stop(self, start_ns: int) -> Window:
        return self.between(self._instant(start_ns), self._instant(max(self._clock(), start_ns)))

    def peek(self, start_ns: int) -> Window:
        return self.stop(start_ns)

    def read(self) -> int | None:
        return None

    def instant(self) -> Instant:
        return self._instant(self._clock())

    def between(self, begun: Instant, ended: Instant) -> Window:
        return window_between(self.rate, "modelled", begun, ended)

    def _instant(self, time_ns: int) -> Instant:
        return Instant(time_ns, modelled_uj(self.machine.full_watts, 0, time_ns))


class CounterMeter:
    """Reads a running energy counter. If the counter fails, energy is modelled from then on and marked so."""

    def __init__(
        self,
        machine: Machine,
        method: EnergyMethod,
        counter: Callable[[], int],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`counter` gives uJ, never decreasing, and may raise OSError or NVMLError."""
        self.machine, self.rate = machine, Rate.from_machine(machine)
        self.witness = witness_of(clock)
        self._method, self._counter, self._clock = method, counter, clock
        self._lock = threading.Lock()
        self._started: dict[int, int] = {}
        self._first = self._raw = counter()
        self._tick_ns = clock()
        self._power = 0.0  # uJ per ns
        self._total = 0
        self.problem: str | None = None
        """Why the counter is no longer used."""

    @property
    def method(self) -> EnergyMethod:
        return self._method if self.problem is None else "modelled"

    def start(self) -> int:
        with self._lock:
            now = self._clock()
            while now in self._started:  # two windows of one clock tick
                now += 1
            self._started[now] = self._advance(now)
            return now

    def stop(self, start_ns: int) -> Window:
        window = self.peek(start_ns)
        self._started.pop(start_ns)
        return window

    def peek(self, start_ns: int) -> Window:
        with self._lock:
            now = max(self._clock(), start_ns)
            begun, ended = Instant(start_ns, self._started[start_ns]), Instant(now, self._advance(now))
            return self.between(begun, ended)

    def read(self) -> int | None:
        return self.instant().energy_uj

    def instant(self) -> Instant:
        with self._lock:
            now = self._clock()
            return Instant(now, self._advance(now))

    def between(self, begun: Instant, ended: Instant) -> Window:
        return window_between(self.rate, self.method, begun, ended)

    def _advance(self, now: int) -> int:
        """The running total, monotone, with the time since the last tick filled in at the last power."""
        if self.problem is None:
            try:
                raw = self._counter()
                if raw != self._raw:
                    self._power = (raw - self._raw) / max(now - self._tick_ns, 1)
                    self._raw, self._tick_ns = raw, now
                since = min(now - self._tick_ns, LONGEST_EXTRAPOLATION_NS)
                self._total = max(self._total, self._raw - self._first + int(self._power * since))
                return self._total
            except (OSError, ValueError, pynvml.NVMLError) as error:
                self.problem = f"the {self._method} counter stopped answering ({error}); modelled since then"
                self._tick_ns = now
        self._total += modelled_uj(self.machine.full_watts, self._tick_ns, now)
        self._tick_ns = now
        return self._total


def open_meter(machine: Machine) -> Meter:
    """The best meter this machine has: its card's counter, its processor's, or the declared-power model."""
    counter: Callable[[], int] | None = None
    method: EnergyMethod = "modelled"
    if machine.device == "cuda" and machine.gpu_index is not None:
        counter, method = nvml_counter(machine.gpu_index), "nvml"
    elif machine.device == "cpu":
        counter, method = rapl_counter(POWERCAP), "rapl"
    if counter is None:
        return ModelledMeter(machine)
    whole = counter
    return CounterMeter(machine, method, lambda: whole() // machine.parts)


def nvml_counter(index: int) -> Callable[[], int] | None:
    """Energy since the driver was loaded, uJ; None where the card does not count (before Volta)."""
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) * 1_000
    return None


def rapl_counter(folder: Path) -> Callable[[], int] | None:
    """Energy of all packages and their memory, uJ; None where there is none or it may not be read.

    The files wrap around; reading at least every half hour catches each wrap (drain_period and windows do).
    """
    zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _counts(zone)]
    try:
        ranges = {zone / "energy_uj": int((zone / "max_energy_range_uj").read_text()) + 1 for zone in zones}
        last = {file: int(file.read_text()) for file in ranges}
    except (OSError, ValueError):
        return None
    if not zones:
        return None
    total = 0

    def read() -> int:
        nonlocal total
        for file, size in ranges.items():
            value = int(file.read_text())
            total += (value - last[file]) % size
            last[file] = value
        return total

    return read


def _counts(zone: Path) -> bool:
    """Packages and memory; cores and graphics are inside their package."""
    with contextlib.suppress(OSError):
        name = (zone / "name").read_text().strip()
        return name.startswith("package") or name == "dram"
    return False
