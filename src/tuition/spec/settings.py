"""What the user states about the machine and its price; it replaces the catalogue. All are optional."""

from dataclasses import dataclass, fields
from typing import Literal

from tuition.core.errors import SettingsError

Device = Literal["cpu", "cuda", "mps"]

HOURS_PER_YEAR = 8_760

LARGEST = {
    "usd_per_hour": 1e6,
    "usd_per_kwh": 1e4,
    "pue": 100.0,
    "carbon_g_per_kwh": 1e5,
    "idle_watts": 1e8,
    "full_watts": 1e8,
}
"""Larger than the figures of any machine; sums of larger ones would overflow the integers of the books."""


@dataclass(frozen=True)
class OwnedSettings:
    """A machine that was bought: an hour costs the recovery of its capital over its life, and its upkeep."""

    price_usd: float
    """Purchase price of the whole machine, US dollars."""
    life_years: float = 4.0
    """Years until it is replaced."""
    residual_usd: float = 0.0
    """What it can be sold for at the end of its life, US dollars."""
    interest_per_year: float = 0.0
    """Cost of the capital bound in it, as a share per year (0.05 is 5 %)."""
    upkeep_usd_per_year: float = 0.0
    """Repairs, space, network, US dollars a year; electricity is counted separately."""

    def __post_init__(self) -> None:
        if not self.price_usd >= 0:
            raise SettingsError("owned.price_usd", got=self.price_usd, wanted="0 or more US dollars")
        if not self.life_years > 0:
            raise SettingsError("owned.life_years", got=self.life_years, wanted="more than 0 years")
        if not 0 <= self.residual_usd <= self.price_usd:
            raise SettingsError(
                "owned.residual_usd", got=self.residual_usd, wanted=f"0 to price_usd ({self.price_usd})"
            )
        for name in ("interest_per_year", "upkeep_usd_per_year"):
            if not getattr(self, name) >= 0:
                raise SettingsError(f"owned.{name}", got=getattr(self, name), wanted="0 or more")
        try:
            rate = self.usd_per_hour
        except ArithmeticError:
            rate = float("inf")
        if not rate <= LARGEST["usd_per_hour"]:
            wanted = f"figures that make at most {LARGEST['usd_per_hour']:,.0f} US dollars per hour"
            raise SettingsError("owned", got=rate, wanted=wanted)

    @property
    def usd_per_hour(self) -> float:
        """Capital recovery and upkeep of one hour, used or not, without electricity.

        Source: the annuity of the price less the discounted residual value, over 8,760 hours a year.
        """
        rate, years = self.interest_per_year, self.life_years
        if rate == 0:
            yearly = (self.price_usd - self.residual_usd) / years
        else:
            discount = (1 + rate) ** -years
            yearly = (self.price_usd - self.residual_usd * discount) * rate / (1 - discount)
        return (yearly + self.upkeep_usd_per_year) / HOURS_PER_YEAR


@dataclass(frozen=True)
class MachineSettings:
    """Values that replace detected or assumed ones of the machine; a missing field keeps the default."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where models run; auto takes a GPU when there is one."""
    name: str | None = None
    """Name of the machine on receipts."""
    usd_per_hour: float | None = None
    """Price of one hour of the whole machine, US dollars; 0: it is free."""
    electricity_in_rate: bool | None = None
    """Whether usd_per_hour includes electricity (true for most rented machines)."""
    usd_per_kwh: float | None = None
    """Price of electricity, US dollars per kWh."""
    owned: OwnedSettings | None = None
    """For a machine that was bought: gives usd_per_hour; electricity is then counted separately."""
    pue: float | None = None
    """Power usage effectiveness: energy of the building divided by energy of its machines, at least 1."""
    country: str | None = None
    """Two-letter code of the country whose carbon intensity applies (ISO 3166), like DE."""
    carbon_g_per_kwh: float | None = None
    """Carbon intensity of the electricity, grams of CO2 equivalent per kWh."""
    idle_watts: float | None = None
    """Power of the idle machine, watts."""
    full_watts: float | None = None
    """Power of the machine under full load, watts."""
    peak_flops: float | None = None
    """Peak FLOPs per second of its matrix units, in bf16 if it supports that."""
    memory_bandwidth: float | None = None
    """Bytes per second that it reads from memory."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if (
                isinstance(value, float | int)
                and not isinstance(value, bool)
                and not 0 <= value < float("inf")
            ):
                raise SettingsError(field.name, got=value, wanted="a number of 0 or more")
            if field.name in LARGEST and value is not None and value > LARGEST[field.name]:
                raise SettingsError(field.name, got=value, wanted=f"at most {LARGEST[field.name]:,.0f}")
        if self.pue is not None and self.pue < 1:
            raise SettingsError("pue", got=self.pue, wanted="at least 1")
        for name in ("peak_flops", "memory_bandwidth"):
            if getattr(self, name) == 0:
                raise SettingsError(name, got=0, wanted="more than 0")
        if self.owned is not None and self.usd_per_hour is not None:
            raise SettingsError(
                "usd_per_hour", got=self.usd_per_hour, wanted="nothing, because `owned` gives it"
            )
        if self.owned is not None and self.electricity_in_rate:
            raise SettingsError("electricity_in_rate", got=True, wanted="false, because the machine is owned")
        idle, full = self.idle_watts, self.full_watts
        if idle is not None and full is not None and idle > full:
            raise SettingsError("idle_watts", got=idle, wanted=f"at most full_watts ({full})")
