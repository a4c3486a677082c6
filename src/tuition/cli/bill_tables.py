"""Tables of `tuition bill`: receipts, one a line, and the check, each sum above its parts.

In: sheets of the ledger.  Out: text for people; programs get the sheets as JSON or CSV.
"""

from collections.abc import Sequence

from tuition.cli.models import when
from tuition.core.units import format_duration, format_energy, format_usd
from tuition.ledger.amount import NOTHING, Amount
from tuition.ledger.reconciliation import Reconciliation
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


def check_table(found: Reconciliation) -> str:
    """The identities of the books: what stands behind = and + or - adds up to the line above them."""
    sums: dict[str, list[tuple[str, str, Amount, str]]] = {
        "Using models, by the meter": [
            (" ", "meter", found.meter, "while they were loaded"),
            ("=", "attributed", found.attributed, "to requests"),
            ("+", "idle", found.idle, "loaded, with nothing to do"),
            ("+", "overhead", found.overhead, "loading, and what no request caused"),
            ("+", "residual", found.residual, "has to be nothing"),
        ],
        "Receipts of requests": [
            (" ", "requests", found.requests, "the sum of their receipts"),
            ("=", "attributed", found.attributed, "as above"),
            ("-", "in flight", found.in_flight, "of it, to requests that have no receipt"),
            ("+", "after period", found.after_period, "in receipts since the meter was last booked"),
        ],
        "All that was booked": [
            (" ", "machine", -found.accounts.get("machine", NOTHING), "what its account has given"),
            ("=", "training", found.training, "metered by each run for itself"),
            ("+", "requests", found.requests, "as above"),
            ("+", "idle", found.idle, "as above"),
            ("+", "overhead", found.overhead, "as above"),
        ],
    }
    rows = [
        (
            f"  {sign} {name}",
            format_duration(amount.wall_ns / 1e9),
            format_energy(amount.energy_uj),
            format_usd(amount.cost_nusd),
            note,
        )
        for lines in sums.values()
        for sign, name, amount, note in lines
    ]
    texts = iter(aligned(rows, left=(0, 4)).splitlines())
    parts = ["\n".join([title, *(next(texts) for _ in lines)]) for title, lines in sums.items()]
    return "\n\n".join(parts)
