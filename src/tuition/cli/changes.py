"""What fine-tuning has changed, as a table: held-out items, control text, and what it took."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tuition.core.amount import Amount
from tuition.core.units import format_duration, format_energy, format_usd

if TYPE_CHECKING:
    from tuition.train.change import Change

_HEAD = ("", "before", "after", "difference", "95 % interval", "items")


def change_table(changes: Sequence["Change"], total: Amount) -> str:
    """One row for each measure; then time, energy and money of the run. Lower is better in each row."""
    rows = [_HEAD, *(_row(change) for change in changes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    took = f"{format_duration(total.wall_ns / 1e9)}, {format_energy(total.energy_uj)}"
    return "\n".join([*lines, f"it took {took}, {format_usd(total.cost_nusd)}"])


def _row(change: "Change") -> tuple[str, ...]:
    interval = change.interval
    return (
        f"{change.what}, {change.unit}",
        _with_error(change.before, change.before_stderr),
        _with_error(change.after, change.after_stderr),
        f"{change.difference:+.3f}",
        "" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}",
        f"{change.num_items:,}",
    )


def _with_error(value: float, stderr: float | None) -> str:
    return f"{value:.3f}" + ("" if stderr is None else f" ± {stderr:.3f}")
