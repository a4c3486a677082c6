"""Write into the books: the rate of a machine, a request, a price."""

import hashlib
import json
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from tuition.books.books import Books
from tuition.books.schema import prices, rates, requests
from tuition.core.errors import BooksError
from tuition.core.records import FinishReason
from tuition.ledger.amount import Amount
from tuition.ledger.costs import RequestCost
from tuition.ledger.postings import post
from tuition.spec.machine import Machine


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One finished, cancelled or failed request as it goes into the books."""

    request_id: str
    model: str
    version: int | None
    """In the registry; None for a folder that is not registered."""
    weights_digest: str | None
    api_key_id: str | None
    created_unix_ns: int
    prompt_tokens: int
    cached_tokens: int
    """Of prompt_tokens: taken from the prefix cache."""
    generated_tokens: int
    queue_ns: int | None
    """From submission to a place in a step, or to its end without one; None without times."""
    first_token_ns: int | None
    """From submission; None if there was none."""
    total_ns: int
    finish_reason: FinishReason
    cost: RequestCost
    """From EngineAccount.close."""
    rate_id: int
    """From record_rate."""


def record_rate(books: Books, machine: Machine) -> int:
    """Keep the machine's figures (append only, once each) and return the row's id, durable on return."""
    table = json.dumps(machine.to_table(), sort_keys=True, allow_nan=False)
    digest = hashlib.sha256(table.encode()).hexdigest()

    def write(connection: Connection) -> int:
        known = connection.execute(select(rates.c.id).where(rates.c.digest == digest)).scalar()
        if known is not None:
            return known
        row = {
            "digest": digest,
            "created_unix_ns": time.time_ns(),
            "machine_name": machine.name[:200],
            "usd_per_hour": machine.usd_per_hour,
            "machine_json": table,
        }
        return connection.execute(insert(rates).values(**row).returning(rates.c.id)).scalar_one()

    return books.write_now(write)


def record_request(books: Books, row: RequestRow) -> "Future[None]":
    """Write a request and its postings; the future resolves when they are on disk.

    Let the last chunk of the reply wait for it. Writing the same row twice is writing it once. The future
    carries BooksError for an id that is in the books with other figures; BooksError or BusyError when they
    cannot be written.
    """
    return books.write(lambda connection: write_request(connection, row))


def write_request(connection: Connection, row: RequestRow) -> None:
    """`record_request` inside a transaction of the caller's. Raises: BooksError for an id that is taken."""
    cost = row.cost
    parts = {"total": cost.total, "prefill": cost.prefill, "decode": cost.decode, "waste": cost.waste}
    values = {
        "id": row.request_id,
        "model": row.model,
        "version": row.version,
        "weights_digest": row.weights_digest,
        "api_key_id": row.api_key_id,
        "created_unix_ns": row.created_unix_ns,
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "generated_tokens": row.generated_tokens,
        "queue_ns": row.queue_ns,
        "first_token_ns": row.first_token_ns,
        "total_ns": row.total_ns,
        "finish_reason": row.finish_reason,
        "rate_id": row.rate_id,
        "rule": cost.rule,
        "num_steps": cost.num_steps,
        "flops": cost.flops,
        "kv_bytes": cost.kv_bytes,
        "computed_tokens": cost.computed_tokens,
        "wasted_tokens": cost.wasted_tokens,
        "energy_method": cost.energy_method,
        "account": cost.account_id,
        **_columns(parts, "machine_ns"),
    }
    found = connection.execute(select(requests).where(requests.c.id == row.request_id)).mappings().first()
    if found is not None:
        if dict(found) == values:
            return
        raise BooksError(
            f"request {row.request_id} is in the books with other figures; give each request its own id"
        )
    connection.execute(insert(requests).values(**values))
    lines = [("inference", cost.total - cost.waste), ("waste", cost.waste)]
    post(connection, "request", row.request_id, row.rate_id, lines, method=cost.energy_method)


def _columns(parts: Mapping[str, Amount], time_name: str) -> dict[str, int | None]:
    columns: dict[str, int | None] = {}
    for part, amount in parts.items():
        columns[f"{part}_{time_name}"] = amount.wall_ns
        columns[f"{part}_energy_uj"] = amount.energy_uj
        columns[f"{part}_cost_nusd"] = amount.cost_nusd
    return columns


def record_price(
    books: Books,
    model: str,
    *,
    source: str,
    input_nusd_per_mtok: int | None = None,
    cached_nusd_per_mtok: int | None = None,
    output_nusd_per_mtok: int | None = None,
    valid_from_unix_ns: int | None = None,
) -> None:
    """Append a price list; the newest row that has become valid counts. None is no price, 0 is free."""
    now = time.time_ns()
    row = {
        "model": model,
        "valid_from_unix_ns": now if valid_from_unix_ns is None else valid_from_unix_ns,
        "input_nusd_per_mtok": input_nusd_per_mtok,
        "cached_nusd_per_mtok": cached_nusd_per_mtok,
        "output_nusd_per_mtok": output_nusd_per_mtok,
        "source": source,
        "created_unix_ns": now,
    }
    books.write_now(lambda connection: connection.execute(insert(prices).values(**row)) and None)
