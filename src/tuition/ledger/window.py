"""The independent meter of an account: time, energy and money of its machine, independent of the split.

In: `Mark`s, readings of the clock, the energy counter and the worker's busy marks at one moment.  Out: totals
since the first mark. Time is the difference of two clock readings. Energy is the difference of two counter
readings; without a counter, declared power times the busy and idle time that the worker has marked. Money is
the machine's rate applied to these two totals. Nothing here is a sum of shares, so the difference between
these totals and the sum of all shares is a measurement: the residual.
"""

from dataclasses import dataclass

from tuition.core.amount import Amount
from tuition.ledger.rates import Rate
from tuition.spec.machine import Machine

PJ_PER_UJ = 10**6


@dataclass(frozen=True, slots=True)
class Mark:
    """One moment of an account's machine. All figures are running totals."""

    time_ns: int
    """The account's clock."""
    counter_uj: int | None
    """The energy counter; None where there is none."""
    busy_ns: int
    """Time that the worker has marked as busy."""
    witness_ns: int | None = None
    """A second clock, which nothing else in the ledger uses."""
    cpu_ns: int | None = None
    """CPU time of this process, all threads."""


@dataclass(frozen=True, slots=True)
class Power:
    """Declared power in whole milliwatts: times nanoseconds, they are whole picojoules, which add exactly."""

    idle_mw: int
    full_mw: int

    @classmethod
    def of(cls, machine: Machine) -> "Power":
        return cls(round(machine.idle_watts * 1e3), round(machine.full_watts * 1e3))

    def picojoules(self, idle_ns: int, busy_ns: int) -> int:
        """Modelled energy of idle and busy time."""
        return self.idle_mw * idle_ns + self.full_mw * busy_ns


class MeterWindow:
    """A window that is open as long as its account."""

    def __init__(self, machine: Machine, rate: Rate, first: Mark) -> None:
        self.first, self._rate, self._power = first, rate, Power.of(machine)

    def picojoules(self, mark: Mark) -> int:
        """Modelled energy from the first mark to this one."""
        wall_ns, busy_ns = mark.time_ns - self.first.time_ns, mark.busy_ns - self.first.busy_ns
        return self._power.picojoules(wall_ns - busy_ns, busy_ns)

    def total(self, mark: Mark) -> Amount:
        """Time, energy and money from the first mark to this one."""
        if mark.counter_uj is None or self.first.counter_uj is None:
            energy_uj = self.picojoules(mark) // PJ_PER_UJ
        else:
            energy_uj = mark.counter_uj - self.first.counter_uj
        cost = self._rate.of_time(self.first.time_ns, mark.time_ns) + self._rate.of_energy(0, energy_uj)
        return Amount(mark.time_ns - self.first.time_ns, energy_uj, cost)
