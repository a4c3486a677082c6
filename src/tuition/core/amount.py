"""What something cost, in the three units that are kept together: machine time, energy, money."""

from dataclasses import dataclass

from tuition.core.units import NUSD_PER_USD, UJ_PER_WH


@dataclass(frozen=True, slots=True)
class Amount:
    """Machine time, energy and money of one thing. Amounts add; unknown energy makes the sum unknown."""

    wall_ns: int = 0
    energy_uj: int | None = 0
    cost_nusd: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        known = self.energy_uj is not None and other.energy_uj is not None
        return Amount(
            self.wall_ns + other.wall_ns,
            self.energy_uj + other.energy_uj if known else None,  # type: ignore[operator]
            self.cost_nusd + other.cost_nusd,
        )

    def __neg__(self) -> "Amount":
        return Amount(-self.wall_ns, None if self.energy_uj is None else -self.energy_uj, -self.cost_nusd)

    def __sub__(self, other: "Amount") -> "Amount":
        return self + -other

    @property
    def usd(self) -> float:
        """US dollars."""
        return self.cost_nusd / NUSD_PER_USD

    @property
    def energy_wh(self) -> float | None:
        """Watt-hours, or None where unknown."""
        return None if self.energy_uj is None else self.energy_uj / UJ_PER_WH

    @property
    def seconds(self) -> float:
        """Seconds of machine time."""
        return self.wall_ns / 1e9

    @property
    def exact(self) -> str:
        """All three to the last unit: `1,200 ns, 34 uJ, 5 nUSD`."""
        energy = "unknown energy" if self.energy_uj is None else f"{self.energy_uj:,} uJ"
        return f"{self.wall_ns:,} ns, {energy}, {self.cost_nusd:,} nUSD"


NOTHING = Amount()
