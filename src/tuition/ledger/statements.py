"""Read the books: receipts of training runs and requests, and the statement that puts both together.

In: `Books`.  Out: the dataclasses of `ledger/sheets`; `ledger/render` makes tables, JSON and CSV of them.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, Table, func, select

from tuition.books.books import Books
from tuition.books.schema import evaluations, periods, rates, requests, run_costs, runs
from tuition.books.scores import score_of
from tuition.core.amount import NOTHING, Amount
from tuition.core.errors import NotFoundError
from tuition.core.request_record import from_columns
from tuition.ledger.process import has_ended
from tuition.ledger.sheets import (
    ALL_TIME,
    ModelStatement,
    RateUse,
    RequestReceipt,
    Span,
    Statement,
    TrainingReceipt,
)
from tuition.ledger.standing import Standing, standing_by_model
from tuition.ledger.stored import machine_of

PROCESS_ENDED = "process ended"


def training_receipts(
    books: Books, model: str | None = None, span: Span = ALL_TIME
) -> tuple[TrainingReceipt, ...]:
    """Receipts of all runs, or of those of one model, oldest first."""
    conditions = (runs.c.model == model,) if model else ()
    return books.read(
        lambda connection: _training(connection, conditions + _within(runs.c.created_unix_ns, span))
    )


def training_receipt(books: Books, run_id: str) -> TrainingReceipt:
    """The receipt of a run by its id, or of the newest run of a model by its name. Raises: NotFoundError."""

    def read(connection: Connection) -> TrainingReceipt:
        found = _training(connection, ((runs.c.id == run_id) | (runs.c.model == run_id),))
        if not found:
            known = (
                connection.execute(select(runs.c.id).order_by(runs.c.created_unix_ns.desc())).scalars().all()
            )
            raise NotFoundError("run", run_id, list(known))
        return next((receipt for receipt in found if receipt.run_id == run_id), found[-1])

    return books.read(read)


def _training(
    connection: Connection, conditions: Sequence[ColumnElement[bool]]
) -> tuple[TrainingReceipt, ...]:
    query = select(runs, rates.c.machine_json).join(rates, rates.c.id == runs.c.rate_id)
    query = query.where(*conditions).order_by(runs.c.created_unix_ns)
    return tuple(_training_receipt(connection, row) for row in connection.execute(query).mappings().all())


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
        flops=row["flops"],
        scores=tuple(score_of(row) for row in scores),
        parts=parts,
        total=sum(parts.values(), NOTHING),
        energy_method=_method(methods),
        machine=machine_of(row["machine_json"], row["rate_id"]),
        rates=_rates_of_run(connection, row["id"]),
        **{name: row[name] for name in (
            "model", "recipe", "scope", "created_unix_ns", "num_steps", "unit", "num_tokens",
            "redone_tokens",            "num_resumes", "num_parameters", "last_loss",
        )},
    )  # fmt: skip


def _rates_of_run(connection: Connection, run_id: str) -> tuple[RateUse, ...]:
    """What a run's processes were charged at each rate; nothing for a run from before they had periods."""
    mine = (periods.c.run_id == run_id, periods.c.kind == "training")
    return _rates(connection, _sum(connection, periods, "meter_", "wall_ns", mine), {}, {})


def _method(methods: set[str]) -> str | None:
    """One name for a figure that was obtained in several ways: the least certain one."""
    return "modelled" if "modelled" in methods else min(methods, default=None)


def request_receipt(books: Books, request_id: str) -> RequestReceipt:
    """The receipt of one request. Raises: NotFoundError."""
    found = request_receipts(books, requests.c.id == request_id)
    if not found:
        newest = select(requests.c.id).order_by(requests.c.created_unix_ns.desc()).limit(12)
        known = books.read(lambda connection: connection.execute(newest).scalars().all())
        raise NotFoundError("request", request_id, list(known))
    return found[0]


def call_receipts(books: Books, call_id: str) -> tuple[RequestReceipt, ...]:
    """Receipts of one call by the id that the server gave it (x-request-id): one for each reply it asked for.

    Replies are numbered from 0 behind a dash, and come in that order. The id of a single request is taken
    too. Raises: NotFoundError.
    """
    begin, end = f"{call_id}-", f"{call_id}."  # "." follows "-"
    found = request_receipts(books, (requests.c.id >= begin) & (requests.c.id < end), limit=None)
    replies = {receipt.request_id.removeprefix(begin): receipt for receipt in found}
    numbers = sorted((number for number in replies if number.isdecimal()), key=int)
    return tuple(replies[n] for n in numbers) or (request_receipt(books, call_id),)


def request_receipts(
    books: Books, *conditions: ColumnElement[bool], limit: int | None = 20
) -> tuple[RequestReceipt, ...]:
    """Receipts of the newest requests that meet all conditions, newest first."""

    def read(connection: Connection) -> tuple[RequestReceipt, ...]:
        machines = _machines(connection)
        query = _newest_requests(conditions, limit)
        return tuple(
            receipt_of(row, machines[row["rate_id"]]) for row in connection.execute(query).mappings()
        )

    return books.read(read)


def each_request(
    books: Books,
    take: Callable[[Mapping[Any, Any], Mapping[str, Any]], object],
    *conditions: ColumnElement[bool],
    limit: int | None = None,
) -> None:
    """Hand each row of `requests` and its machine to `take`, newest first, in constant memory."""

    def read(connection: Connection) -> None:
        machines = _machines(connection)
        found = connection.execution_options(yield_per=1_000).execute(_newest_requests(conditions, limit))
        for row in found.mappings():
            take(row, machines[row["rate_id"]])

    books.read(read)


def of_model(model: str | None) -> tuple[ColumnElement[bool], ...]:
    """The condition that picks one model's requests; none for all."""
    return () if model is None else (requests.c.model == model,)


def in_span(span: Span) -> tuple[ColumnElement[bool], ...]:
    """The conditions that pick the requests of a span of time."""
    return _within(requests.c.created_unix_ns, span)


def _within(column: Any, span: Span) -> tuple[ColumnElement[bool], ...]:
    since = () if span.since_unix_ns is None else (column >= span.since_unix_ns,)
    until = () if span.until_unix_ns is None else (column < span.until_unix_ns,)
    return since + until


def _newest_requests(conditions: Sequence[ColumnElement[bool]], limit: int | None) -> Select[Any]:
    query = select(requests).where(*conditions)
    return query.order_by(requests.c.created_unix_ns.desc(), requests.c.id.desc()).limit(limit)


def _machines(connection: Connection) -> dict[int, dict[str, Any]]:
    """The machine's table of each rate."""
    rows = connection.execute(select(rates.c.id, rates.c.machine_json))
    return {rate_id: machine_of(table, rate_id) for rate_id, table in rows}


def receipt_of(row: Mapping[Any, Any], machine: Mapping[str, Any]) -> RequestReceipt:
    """The receipt of a row of `requests`."""
    record = from_columns(row)
    values = {each.name: getattr(record, each.name) for each in fields(record)}
    return RequestReceipt(machine=machine, **values)


def statement(books: Books, model: str | None = None, span: Span = ALL_TIME) -> Statement:
    """Fixed and variable cost of every model in the books, or of `model`.

    Of `span` are the runs, requests and periods that began in it. Raises: NotFoundError.
    """

    def read(connection: Connection) -> Statement:
        names = sorted(
            {
                name
                for table in (runs, requests, periods)
                for name in connection.execute(
                    select(table.c.model).distinct().where(*_within(table.c.created_unix_ns, span))
                ).scalars()
            }
        )
        if model is not None and model not in names:
            raise NotFoundError("model in the books", model, names)
        chosen = [model] if model else names
        within = [_within(table.c.created_unix_ns, span) for table in (periods, requests)]
        standing = standing_by_model(connection, *within)
        return Statement(
            tuple(
                _model_statement(connection, name, span, standing.get(name, Standing())) for name in chosen
            ),
            span,
        )

    return books.read(read)


def _model_statement(connection: Connection, model: str, span: Span, standing: Standing) -> ModelStatement:
    mine = (requests.c.model == model, *_within(requests.c.created_unix_ns, span))
    training = _training(connection, (runs.c.model == model, *_within(runs.c.created_unix_ns, span)))
    counts = ("prompt_tokens", "input_tokens", "cached_tokens", "generated_tokens")
    query = select(func.count(), *(func.coalesce(func.sum(requests.c[name]), 0) for name in counts))
    number, *totals = map(int, connection.execute(query.where(*mine)).one())
    taken = select(requests.c.total_ns).where(*mine, requests.c.finish_reason != "cancelled")
    latencies = connection.execute(taken).scalars().all()
    methods = set(connection.execute(select(requests.c.energy_method).distinct().where(*mine)).scalars())
    causal = {part: _sum(connection, requests, f"{part}_", "machine_ns", mine) for part in (
        "total", "prefill", "decode", "waste",
    )}  # fmt: skip
    return ModelStatement(
        model=model,
        training=training,
        fixed=sum((run.total for run in training), NOTHING) if training else None,
        num_requests=number,
        **dict(zip(counts, totals, strict=True)),
        causal=_together(causal["total"]),
        prefill=_together(causal["prefill"]),
        decode=_together(causal["decode"]),
        waste=_together(causal["waste"]),
        idle=_together(standing.idle),
        overhead=_together(standing.overhead),
        is_shared=standing.is_shared,
        energy_method=_method({method for method in methods if method}),
        latency_p50_ns=percentile(latencies, 0.50),
        latency_p99_ns=percentile(latencies, 0.99),
        rates=_rates(connection, causal["total"], standing.idle, standing.overhead),
    )


ByRate = Mapping[int, Amount]
"""Separate sums for each rate: history keeps the figures that were valid then."""


def _together(parts: ByRate) -> Amount:
    return sum(parts.values(), NOTHING)


def _rates(connection: Connection, causal: ByRate, idle: ByRate, overhead: ByRate) -> tuple[RateUse, ...]:
    machines = _machines(connection)
    return tuple(
        RateUse(
            machines[rate_id],
            causal.get(rate_id, NOTHING),
            causal.get(rate_id, NOTHING) + idle.get(rate_id, NOTHING) + overhead.get(rate_id, NOTHING),
        )
        for rate_id in sorted({*causal, *idle, *overhead})
    )


def _sum(
    connection: Connection,
    table: Table,
    prefix: str,
    time_name: str,
    conditions: Sequence[ColumnElement[bool]],
) -> dict[int, Amount]:
    """Sums of one part by rate; energy is unknown if any row's is."""
    energy, rate = table.c[f"{prefix}energy_uj"], table.c.rate_id
    columns = (
        func.sum(table.c[f"{prefix}{time_name}"]),
        func.sum(energy),
        func.sum(table.c[f"{prefix}cost_nusd"]),
    )
    query = select(rate, func.count(), func.count(energy), *columns).where(*conditions).group_by(rate)
    return {
        rate_id: Amount(int(wall), int(joules or 0) if known == count else None, int(cost))
        for rate_id, count, known, wall, joules, cost in connection.execute(query)
    }


def percentile(values: Sequence[int], share: float) -> int | None:
    """The smallest value that at least `share` of the values do not exceed, at 0.5 the median; None for no
    values."""
    if not values:
        return None
    if share == 0.5:
        return int(statistics.median(values))
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
