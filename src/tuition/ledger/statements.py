"""Read the books: receipts of training runs and requests, and the statement that puts both together.

In: `Books`.  Out: the dataclasses of `ledger/sheets`; `ledger/render` makes tables, JSON and CSV of them.
"""

import json
import statistics
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, func, select

from tuition.books.books import Books
from tuition.books.schema import evaluations, periods, rates, requests, run_costs, runs
from tuition.books.scores import score_of
from tuition.core.errors import NotFoundError
from tuition.ledger.amount import NOTHING, Amount
from tuition.ledger.process import has_ended
from tuition.ledger.sheets import ModelStatement, RequestReceipt, Statement, TrainingReceipt

PROCESS_ENDED = "process ended"


def training_receipts(books: Books, model: str | None = None) -> tuple[TrainingReceipt, ...]:
    """Receipts of all runs, or of those of one model, oldest first."""
    return books.read(lambda connection: _training(connection, runs.c.model == model if model else None))


def training_receipt(books: Books, run_id: str) -> TrainingReceipt:
    """The receipt of a run by its id, or of the newest run of a model by its name. Raises: NotFoundError."""

    def read(connection: Connection) -> TrainingReceipt:
        found = _training(connection, (runs.c.id == run_id) | (runs.c.model == run_id))
        if not found:
            known = (
                connection.execute(select(runs.c.id).order_by(runs.c.created_unix_ns.desc())).scalars().all()
            )
            raise NotFoundError("run", run_id, list(known))
        return next((receipt for receipt in found if receipt.run_id == run_id), found[-1])

    return books.read(read)


def _training(connection: Connection, condition: Any) -> tuple[TrainingReceipt, ...]:
    query = select(runs, rates.c.machine_json).join(rates, rates.c.id == runs.c.rate_id)
    query = query.order_by(runs.c.created_unix_ns)
    found = connection.execute(query if condition is None else query.where(condition)).mappings().all()
    return tuple(_training_receipt(connection, row) for row in found)


def _training_receipt(connection: Connection, row: RowMapping) -> TrainingReceipt:
    costs = connection.execute(select(run_costs).where(run_costs.c.run_id == row["id"])).mappings().all()
    parts = {cost["kind"]: Amount(cost["wall_ns"], cost["energy_uj"], cost["cost_nusd"]) for cost in costs}
    scores = connection.execute(
        select(evaluations).where(evaluations.c.run_id == row["id"]).order_by(evaluations.c.id)
    ).mappings()
    status, reason = row["status"], row["reason"]
    if status == "running" and has_ended(row["process"], row["updated_unix_ns"]):
        status, reason = "stopped", PROCESS_ENDED
    methods = {cost["energy_method"] for cost in costs if cost["energy_method"]}
    return TrainingReceipt(
        run_id=row["id"],
        status=status,
        reason=reason,
        flops=int(row["flops"]),
        scores=tuple(score_of(row) for row in scores),
        parts=parts,
        total=sum(parts.values(), NOTHING),
        energy_method=_method(methods),
        machine=json.loads(row["machine_json"]),
        **{name: row[name] for name in (
            "model", "recipe", "scope", "created_unix_ns", "num_steps", "unit", "num_tokens",
            "redone_tokens",            "num_resumes", "num_parameters", "last_loss",
        )},
    )  # fmt: skip


def _method(methods: set[str]) -> str | None:
    """One name for what may have been obtained in several ways; the weakest claim wins."""
    return "modelled" if "modelled" in methods else min(methods, default=None)


def request_receipt(books: Books, request_id: str) -> RequestReceipt:
    """The receipt of one request. Raises: NotFoundError."""

    def read(connection: Connection) -> RequestReceipt:
        query = select(requests, rates.c.machine_json).join(rates, rates.c.id == requests.c.rate_id)
        row = connection.execute(query.where(requests.c.id == request_id)).mappings().first()
        if row is None:
            newest = select(requests.c.id).order_by(requests.c.created_unix_ns.desc()).limit(12)
            raise NotFoundError("request", request_id, list(connection.execute(newest).scalars()))
        return _request_receipt(row)

    return books.read(read)


def call_receipts(books: Books, call_id: str) -> tuple[RequestReceipt, ...]:
    """Receipts of one call by the id that the server gave it (x-request-id): one for each reply it asked for.

    Replies are numbered from 0 behind a dash, and come in that order. The id of a single request is taken
    too. Raises: NotFoundError.
    """
    begin, end = f"{call_id}-", f"{call_id}."  # "." follows "-"
    query = select(requests, rates.c.machine_json).join(rates, rates.c.id == requests.c.rate_id)
    query = query.where((requests.c.id >= begin) & (requests.c.id < end))
    rows = books.read(lambda connection: connection.execute(query).mappings().all())
    replies = {row["id"].removeprefix(begin): row for row in rows}
    numbers = sorted((number for number in replies if number.isdecimal()), key=int)
    return tuple(_request_receipt(replies[n]) for n in numbers) or (request_receipt(books, call_id),)


def request_receipts(books: Books, model: str | None = None, limit: int = 20) -> tuple[RequestReceipt, ...]:
    """Receipts of the newest requests, newest first."""
    query = select(requests, rates.c.machine_json).join(rates, rates.c.id == requests.c.rate_id)
    if model is not None:
        query = query.where(requests.c.model == model)
    query = query.order_by(requests.c.created_unix_ns.desc()).limit(limit)
    rows = books.read(lambda connection: connection.execute(query).mappings().all())
    return tuple(_request_receipt(row) for row in rows)


def _request_receipt(row: RowMapping) -> RequestReceipt:
    values: dict[str, Any] = {
        part: Amount(row[f"{part}_machine_ns"], row[f"{part}_energy_uj"], row[f"{part}_cost_nusd"])
        for part in ("total", "prefill", "decode", "waste")
    }
    values |= {name: row[name] for name in (
        "model", "version", "weights_digest", "created_unix_ns", "prompt_tokens", "cached_tokens",
        "generated_tokens", "computed_tokens", "queue_ns", "first_token_ns", "total_ns", "finish_reason",
        "rule", "energy_method", "flops", "kv_bytes", "wasted_tokens",
    )}  # fmt: skip
    return RequestReceipt(request_id=row["id"], machine=json.loads(row["machine_json"]), **values)


def statement(books: Books, model: str | None = None) -> Statement:
    """Fixed and variable cost of every model in the books, or of `model`. Raises: NotFoundError."""

    def read(connection: Connection) -> Statement:
        names = sorted(
            {
                name
                for table in (runs, requests, periods)
                for name in connection.execute(select(table.c.model)).scalars()
            }
        )
        if model is not None and model not in names:
            raise NotFoundError("model in the books", model, names)
        return Statement(tuple(_model_statement(connection, name) for name in ([model] if model else names)))

    return books.read(read)


def _model_statement(connection: Connection, model: str) -> ModelStatement:
    training = _training(connection, runs.c.model == model)
    counts = ("prompt_tokens", "cached_tokens", "generated_tokens")
    row = connection.execute(
        select(func.count(), *(func.sum(requests.c[name]) for name in counts)).where(
            requests.c.model == model
        )
    ).one()
    latencies = connection.execute(
        select(requests.c.total_ns).where(requests.c.model == model, requests.c.finish_reason != "cancelled")
    ).scalars().all()  # fmt: skip
    methods = set(
        connection.execute(select(requests.c.energy_method).where(requests.c.model == model)).scalars()
    )
    used = [run.machine for run in training[-1:]]
    newest = select(rates.c.machine_json).join(requests, requests.c.rate_id == rates.c.id)
    newest = newest.where(requests.c.model == model).order_by(requests.c.created_unix_ns.desc()).limit(1)
    machine = connection.execute(newest).scalar()
    return ModelStatement(
        model=model,
        training=training,
        fixed=sum((run.total for run in training), NOTHING) if training else None,
        num_requests=row[0],
        prompt_tokens=row[1] or 0,
        cached_tokens=row[2] or 0,
        generated_tokens=row[3] or 0,
        causal=_sum(connection, requests, model, "total", "machine_ns"),
        prefill=_sum(connection, requests, model, "prefill", "machine_ns"),
        decode=_sum(connection, requests, model, "decode", "machine_ns"),
        waste=_sum(connection, requests, model, "waste", "machine_ns"),
        idle=_sum(connection, periods, model, "idle", "wall_ns"),
        overhead=_sum(connection, periods, model, "overhead", "wall_ns"),
        energy_method=_method({method for method in methods if method}),
        latency_p50_ns=percentile(latencies, 0.50),
        latency_p99_ns=percentile(latencies, 0.99),
        machine=json.loads(machine) if machine else (used[0] if used else None),
    )


def _sum(connection: Connection, table: Any, model: str, part: str, time_name: str) -> Amount:
    """Sum of one part; energy is unknown if any row's is, nothing if there are no rows."""
    energy = table.c[f"{part}_energy_uj"]
    query = select(
        func.count(), func.sum(table.c[f"{part}_{time_name}"]), func.sum(energy), func.count(energy),
        func.sum(table.c[f"{part}_cost_nusd"]),
    )  # fmt: skip
    query = query.where(table.c.model == model)
    if table is periods:
        query = query.where(periods.c.kind == "serving")
    count, wall, joules, known, cost = connection.execute(query).one()
    return Amount(wall or 0, (joules or 0) if known == count else None, cost or 0)


def percentile(values: Sequence[int], share: float) -> int | None:
    """The smallest value that at least `share` of the values do not exceed, at 0.5 the median; None for no
    values."""
    if not values:
        return None
    if share == 0.5:
        return int(statistics.median(values))
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
