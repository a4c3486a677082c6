"""Tables of `tuition bill`: receipts, one a line.

In: sheets of the ledger.  Out: text for people; programs get the sheets as JSON or CSV.
"""

from collections.abc import Sequence

from tuition.cli.models import when
from tuition.core.units import format_duration, format_energy, format_usd
from tuition.ledger.sheets import RequestReceipt, TrainingReceipt


def request_table(receipts: Sequence[RequestReceipt]) -> str:
    """Requests, one a line."""
    head = ("started", "model", "tokens in", "out", "took", "energy", "cost", "request")
    rows = [
        (
            when(each.created_unix_ns),
            each.model if each.version is None else f"{each.model}@{each.version}",
            f"{each.prompt_tokens:,}",
            f"{each.generated_tokens:,}",
            format_duration(each.total_ns / 1e9),
            format_energy(each.total.energy_uj),
            format_usd(each.total.cost_nusd),
            each.request_id,
        )
        for each in receipts
    ]
    return aligned([head, *rows], left=(0, 1, 7))


def run_table(receipts: Sequence[TrainingReceipt]) -> str:
    """Training runs, one a line."""
    head = ("started", "model", "status", "tokens", "took", "energy", "cost", "run")
    rows = [
        (
            when(each.created_unix_ns),
            each.model,
            each.status,
            f"{each.num_tokens:,}",
            format_duration(each.total.seconds),
            format_energy(each.total.energy_uj),
            format_usd(each.total.cost_nusd),
            each.run_id,
        )
        for each in receipts
    ]
    return aligned([head, *rows], left=(0, 1, 2, 7))


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Columns as wide as their widest cell, to the right but for those named in `left`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)
