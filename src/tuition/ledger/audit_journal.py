"""Check that every row is as it was when it was written, by the digests in the journal of the books.

The other checks compare figures that are stored twice; this one finds a change of what is stored once, such
as a count of tokens, and rows that were added or removed together with everything that named them.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, Table, func, select

from tuition.books.journal import LINE_ROWS, NOTED, chained, digests_of, read_lines
from tuition.books.schema import evaluations, models, periods, place_of, runs
from tuition.ledger.finding import Finding

CHANGED = "was changed after it was written: its digest in the journal differs"
GONE = "is in the journal, and is missing"
ADDED = "was not written by tuition: the journal does not name it"
BROKEN = "was changed, or the line before it is missing: its digest differs"

REWRITTEN = (runs, periods, models)
"""Tables whose rows may be written again: the last digest counts."""


def check_journal(connection: Connection) -> Iterator[Finding]:
    """See the module. In constant memory, but for runs, periods and models."""
    tables = {table.name: table for table in NOTED}
    digests: dict[str, dict[str, str]] = defaultdict(dict)
    numbers = dict.fromkeys(tables, 0)
    previous = ""
    for line in read_lines(connection):
        if line["digest"] != chained(previous, line):
            yield Finding(place_of("journal", line["id"]), "fault", BROKEN)
        previous = line["digest"]
        for name, key, digest in _notes(line):
            if name in tables:
                digests[name][key] = digest
        for name, table in tables.items():
            if table not in REWRITTEN and len(digests[name]) >= LINE_ROWS:
                numbers[name] += len(digests[name])
                yield from _compare(connection, table, digests.pop(name))
    for name, table in tables.items():
        numbers[name] += len(digests[name])
        yield from _compare(connection, table, digests[name])
        yield from _check_added(connection, table, numbers[name])


def _notes(line: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """The rows that a line names; none if it cannot be read, which its own digest shows."""
    try:
        return [(str(name), str(key), str(digest)) for name, key, digest in json.loads(line["rows_json"])]
    except (ValueError, TypeError):
        return []


def _compare(connection: Connection, table: Table, noted: Mapping[str, str]) -> Iterator[Finding]:
    keys = list(noted)
    for first in range(0, len(keys), LINE_ROWS):
        some = keys[first : first + LINE_ROWS]
        stored = digests_of(connection, table, some)
        for key in some:
            if (found := stored.get(key)) != noted[key]:
                yield Finding(_place(connection, table, key), "fault", GONE if found is None else CHANGED)


def _check_added(connection: Connection, table: Table, number: int) -> Iterator[Finding]:
    """Rows that no line names. Looked for only where there are more rows than names."""
    (key,) = table.primary_key.columns
    query = select(key)
    if table is periods:
        query = query.where(table.c.status != "open")  # noted when it ends
    if connection.execute(select(func.count()).select_from(query.subquery())).scalar_one() <= number:
        return
    known = {key for line in read_lines(connection) for name, key, _ in _notes(line) if name == table.name}
    for name in connection.execute(query.order_by(key)).scalars():
        if str(name) not in known:
            yield Finding(_place(connection, table, name), "fault", ADDED)


def _place(connection: Connection, table: Table, key: object) -> str:
    """`evaluation 5 (bard@1, bits_per_byte)`: the number of such a row says nothing to people."""
    names = {models: ("name", "version"), evaluations: ("model", "version", "task")}.get(table)
    place = place_of(table.name, key)
    if names is None:
        return place
    query = select(*(table.c[name] for name in names)).where(table.c.id == int(str(key)))
    row = connection.execute(query).first()
    if row is None:
        return place
    model, version, *task = row
    return f"{place} ({', '.join([model if version is None else f'{model}@{version}', *task])})"
