"""Windows as amounts, and the two ways in which integers are split here without losing one."""

from collections.abc import Sequence

from tuition.core.amount import Amount
from tuition.core.records import Window


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
