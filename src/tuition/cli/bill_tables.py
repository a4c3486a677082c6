"""Tables of `tuition bill`: what all models cost, and receipts, one a line.

In: sheets of the ledger.  Out: text for people; programs get the sheets as JSON or CSV.
"""

from collections.abc import Sequence

from tuition.cli.models import when
from tuition.core.amount import NOTHING, Amount
from tuition.core.units import format_duration, format_energy, format_time, format_usd
from tuition.ledger.sheets import ModelStatement, RequestReceipt, Statement, TrainingReceipt


def overview(sheet: Statement) -> str:
    """Five lines about everything, and a line for each model."""
    models = sheet.models
    training = sum((model.fixed for model in models if model.fixed is not None), NOTHING)
    requests = sum((model.causal for model in models), NOTHING)
    unused = sum((model.idle + model.overhead for model in models), NOTHING)
    runs, number = sum(len(model.training) for model in models), sum(model.num_requests for model in models)
    times = [
        f" {word} {format_time(ns)[:16].replace('T', ' ')}Z"
        for word, ns in (("since", sheet.span.since_unix_ns), ("until", sheet.span.until_unix_ns))
        if ns is not None
    ]
    rows = [
        ("  training runs", f"{runs:,}", *cells(training)),
        ("  requests", f"{number:,}", *cells(requests)),
        ("  idle and overhead", "", *cells(unused)),
        ("  in all", "", *cells(training + requests + unused)),
    ]
    title = f"What {len(models):,} models cost{','.join(times)}" if len(models) != 1 else (
        f"What {models[0].model} costs{','.join(times)}"
    )  # fmt: skip
    return f"{title}\n{aligned(rows, left=(0,))}\n\n{model_table(models)}"


def cells(amount: Amount) -> tuple[str, str, str]:
    """Time, energy and money."""
    return format_duration(amount.seconds), format_energy(amount.energy_uj), format_usd(amount.cost_nusd)


def model_table(models: Sequence[ModelStatement]) -> str:
    """Models, one a line."""
    head = (
        "model", "training", "requests", "tokens in", "out", "cost of requests", "per request",
        "idle, overhead", "in all",
    )  # fmt: skip
    rows = [
        (
            each.model,
            "unknown" if each.fixed is None else format_usd(each.fixed.cost_nusd),
            f"{each.num_requests:,}",
            f"{each.prompt_tokens:,}",
            f"{each.generated_tokens:,}",
            format_usd(each.causal.cost_nusd),
            "" if each.nusd_per_request is None else format_usd(each.nusd_per_request),
            format_usd((each.idle + each.overhead).cost_nusd),
            format_usd(((each.fixed or NOTHING) + each.loaded).cost_nusd),
        )
        for each in models
    ]
    return aligned([head, *rows], left=(0,))


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
