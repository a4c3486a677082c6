"""The journal of the books: a chain of digests over everything that was written.

In: `note` for each row that is written.  Out: with each commit one line that holds the digests of these rows,
and SHA-256 over itself and the line before. A row that is changed, added or removed later does not agree with
the journal, and a line that is changed does not agree with the next one (`ledger/audit_journal`).

The digest of a row covers its columns by name, without those that hold their default: a revision that adds a
column leaves the digests of older rows valid. Costs of a run are part of its row, entries are part of their
transaction.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Table, insert, select

from tuition.books.schema import (
    acceptances,
    entries,
    evaluations,
    journal,
    models,
    periods,
    prices,
    rates,
    requests,
    run_costs,
    runs,
    transactions,
)
from tuition.books.types import storable

SINCE = {
    "0006": (rates, prices, transactions, requests, periods, runs, acceptances),
    "0007": (models, evaluations),
}
"""The tables whose rows are in the journal, by the revision that put them there."""
NOTED = tuple(table for tables in SINCE.values() for table in tables)
PARTS = {transactions: (entries, "transaction_id", ("id", "transaction_id")), runs: (run_costs, "run_id", ())}
"""Rows that belong to another row: their table, how they name it, and columns that do not count."""

LINE_ROWS = 500
"""Rows in one line of the journal when older books are taken over, and in one query of a check."""
_PENDING = "journal"
"""Key in the connection's `info`: what this transaction has written so far."""

_NEWEST = select(journal.c.digest).order_by(journal.c.id.desc()).limit(1)
_INSERT = insert(journal)

Row = Mapping[Any, Any]
Note = tuple[str, str, str]
"""Table, key and digest of a row."""


def begin_line(connection: Connection) -> None:
    """Forget what an earlier transaction of this connection has noted."""
    connection.info[_PENDING] = []


def num_noted(connection: Connection) -> int:
    """Rows noted by this transaction so far, for `forget_after`."""
    return len(connection.info[_PENDING])


def forget_after(connection: Connection, number: int) -> None:
    """Forget the notes behind the first `number`: what they describe was rolled back."""
    del connection.info[_PENDING][number:]


def note(connection: Connection, table: Table, row: Row, parts: Iterable[Row] = ()) -> None:
    """Note a row that this transaction has written, with the rows that belong to it."""
    (key,) = table.primary_key.columns
    connection.info[_PENDING].append((table.name, str(row[key.name]), digest_of(table, row, parts)))


def note_stored(connection: Connection, table: Table, *keys: object) -> None:
    """`note`, read back from the database: for rows that are written rarely or column by column."""
    for name, digest in digests_of(connection, table, keys).items():
        connection.info[_PENDING].append((table.name, name, digest))


def end_line(connection: Connection) -> None:
    """Append one line with what this transaction has noted; nothing where it noted nothing."""
    notes: Sequence[Note] = connection.info[_PENDING]
    begin_line(connection)
    if notes:
        previous = connection.execute(_NEWEST).scalar() or ""
        line = {"created_unix_ns": time.time_ns(), "rows_json": json.dumps(notes, separators=(",", ":"))}
        connection.execute(_INSERT, line | {"digest": chained(previous, line)})


def chained(previous: str, line: Row) -> str:
    """The digest of a line behind the line with digest `previous`."""
    text = f"{previous}\n{line['created_unix_ns']}\n{line['rows_json']}"
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(table: Table, row: Row, parts: Iterable[Row] = ()) -> str:
    """The digest of a row: 128 bits of SHA-256."""
    text = _text_of(table, row)
    if table in PARTS:
        part, _, uncounted = PARTS[table]
        text = "\n".join([text, *sorted(_text_of(part, each, uncounted) for each in parts)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digests_of(connection: Connection, table: Table, keys: Iterable[object]) -> dict[str, str]:
    """The digests of stored rows by key; a row that is missing is left out."""
    (key,) = table.primary_key.columns
    kind = key.type.python_type
    wanted = [kind(each) for each in keys]
    rows = connection.execute(select(table).where(key.in_(wanted))).mappings().all()
    parts: dict[object, list[Row]] = {row[key.name]: [] for row in rows}
    if table in PARTS:
        part, names, _ = PARTS[table]
        found = connection.execute(select(part).where(part.c[names].in_(wanted))).mappings()
        for each in found:
            parts.setdefault(each[names], []).append(each)
    return {str(row[key.name]): digest_of(table, row, parts[row[key.name]]) for row in rows}


def take_over(connection: Connection, revision: str | None) -> None:
    """Note all rows of tables that had no place in the journal at this revision of the books."""
    for table in (each for since, tables in SINCE.items() if (revision or "") < since for each in tables):
        (key,) = table.primary_key.columns
        query = select(key).order_by(key)
        keys = connection.execute(query.where(table.c.status != "open") if table is periods else query)
        names = list(keys.scalars())
        for first in range(0, len(names), LINE_ROWS):
            begin_line(connection)
            note_stored(connection, table, *names[first : first + LINE_ROWS])
            end_line(connection)


def read_lines(connection: Connection) -> Iterator[Row]:
    """All lines in their order, in constant memory."""
    query = select(journal).order_by(journal.c.id)
    yield from connection.execute(query, execution_options={"yield_per": 1_000}).mappings()


def _text_of(table: Table, row: Row, uncounted: Sequence[str] = ()) -> str:
    defaults = _defaults(table)
    kept: dict[str, Any] = {}
    for name, default in defaults.items():
        value = row.get(name, default)
        if isinstance(value, float) and math.isnan(value):
            value = None
        if value != default and name not in uncounted:
            kept[name] = storable(value) if isinstance(value, str) else value
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), default=repr)


@cache
def _defaults(table: Table) -> dict[str, Any]:
    return {column.name: _default_of(column) for column in table.columns}


def _default_of(column: Column[Any]) -> Any:
    if column.default is not None:
        return column.default.arg  # type: ignore[attr-defined]
    if column.server_default is None:
        return None
    text, kind = str(column.server_default.arg), column.type.python_type  # type: ignore[attr-defined]
    return text == "true" if kind is bool else kind(text)
