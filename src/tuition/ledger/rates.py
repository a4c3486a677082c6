"""Money of time and energy. Costs are differences of running totals: splitting a window changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tuition.core.units import NUSD_PER_USD
from tuition.spec.machine import Machine

PER_HOUR = 3_600 * 10**9
"""Nanoseconds in an hour, and, by coincidence of units, microjoules in a kilowatt-hour."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What an hour and a kilowatt-hour of a machine cost, in billionths of a US dollar."""

    nusd_per_hour: int
    nusd_per_kwh: int
    """Per kWh of the machine, with the building's share (PUE); 0 if usd_per_hour includes electricity."""

    @classmethod
    def from_machine(cls, machine: Machine) -> Self:
        """The machine's rate; electricity is counted only where usd_per_hour does not contain it."""
        return cls.from_table(machine.to_table())

    @classmethod
    def from_table(cls, machine: Mapping[str, Any]) -> Self:
        """The same from the machine's table, as it stands in the books."""
        per_kwh = 0.0 if machine["electricity_in_rate"] else machine["usd_per_kwh"] * machine["pue"]
        return cls(round(machine["usd_per_hour"] * NUSD_PER_USD), round(per_kwh * NUSD_PER_USD))

    def of_time(self, start_ns: int, end_ns: int) -> int:
        """nUSD of the hours from start_ns to end_ns on one clock; exact under splitting."""
        return self.nusd_per_hour * end_ns // PER_HOUR - self.nusd_per_hour * start_ns // PER_HOUR

    def of_energy(self, start_uj: int, end_uj: int) -> int:
        """nUSD of the energy between two readings of one counter; exact under splitting."""
        return self.nusd_per_kwh * end_uj // PER_HOUR - self.nusd_per_kwh * start_uj // PER_HOUR
