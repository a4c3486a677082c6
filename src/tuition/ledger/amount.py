"""What something cost, in the three units that are kept together: machine time, energy, money.

Integers only, and the two ways integers are split here without losing one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tuition.core.records import Window
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


def amount_of(window: Window) -> Amount:
    """The cost of a window."""
    return Amount(window.wall_ns, window.energy_uj, window.cost_nusd)


def split_integer(total: int, weights: Sequence[int]) -> list[int]:
    """Split `total` in proportion to integer weights, exactly: the parts sum to it, none is off by one.

    Integers throughout, since floats are too coarse for fixed point. What flooring leaves
    over goes to the largest remainders, ties to the earlier part; all weights zero: evenly.
    Raises: ValueError for a negative weight or total, or a total without parts.
    """
    if total < 0 or any(weight < 0 for weight in weights):
        raise ValueError(f"cannot split {total} by {weights}: nothing may be negative")
    whole = sum(weights)
    if whole == 0:
        weights, whole = [1] * len(weights), len(weights)
    if not weights:
        if total:
            raise ValueError(f"{total} cannot be split among nobody")
        return []
    if len(weights) == 1:
        return [total]
    parts, remainders = [], []
    for weight in weights:
        part, remainder = divmod(total * weight, whole)
        parts.append(part)
        remainders.append(remainder)
    left = total - sum(parts)
    if left:
        for i in sorted(range(len(parts)), key=lambda i: (-remainders[i], i))[:left]:
            parts[i] += 1
    return parts
