"""Write into the books: the rate of a machine, a request, a price."""

import hashlib
import json
import time
from concurrent.futures import Future

from sqlalchemy import Connection, bindparam, insert, select

from tuition.books.books import Books
from tuition.books.journal import note, note_stored
from tuition.books.schema import prices, rates, requests
from tuition.core.errors import BooksError
from tuition.core.request_record import RequestRecord, to_columns
from tuition.ledger.postings import post
from tuition.spec.machine import Machine

_FIND_REQUEST = select(requests).where(requests.c.id == bindparam("name"))
_INSERT_REQUEST = insert(requests)
"""Made once, with values as parameters: making a statement takes longer than running it."""


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
        rate_id = connection.execute(insert(rates).values(**row).returning(rates.c.id)).scalar_one()
        note_stored(connection, rates, rate_id)
        return rate_id

    return books.write_now(write)


def record_request(books: Books, record: RequestRecord) -> "Future[None]":
    """Write a request and its postings; the future resolves when they are on disk.

    The last chunk of a reply must wait for it. The same record written twice is stored once. The future
    carries BooksError for an id that is in the books with other figures; BooksError or BusyError when they
    cannot be written.
    """
    return books.write(lambda connection: write_request(connection, record))


def write_request(connection: Connection, record: RequestRecord) -> None:
    """`record_request` inside a transaction of the caller's. Raises: BooksError for an id that is taken."""
    name, cost, values = record.request_id, record.cost, to_columns(record)
    found = connection.execute(_FIND_REQUEST, {"name": name}).mappings().first()
    if found is not None:
        if dict(found) == values:
            return
        raise BooksError(f"request {name} is in the books with other figures; give each request its own id")
    connection.execute(_INSERT_REQUEST, values)
    note(connection, requests, values)
    lines = [("inference", cost.total - cost.waste), ("waste", cost.waste)]
    post(connection, "request", name, record.rate_id, lines, method=cost.energy_method)


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

    def write(connection: Connection) -> None:
        price = connection.execute(insert(prices).values(**row).returning(prices.c.id)).scalar_one()
        note_stored(connection, prices, price)

    books.write_now(write)
