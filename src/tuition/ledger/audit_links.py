"""Check what the rows of the books say of one another: each names rows that exist, and they agree.

SQLite does not look at foreign keys unless every connection asks for it, so a program that edits the file can
leave a row that names nothing.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, null, select

from tuition.books.schema import metadata, models, periods, place_of, requests, runs, transactions
from tuition.core.digests import digest_of_pair
from tuition.ledger.finding import Finding

KINDS = ("training", "request", "period")
"""What is posted."""

KNOWN = (
    (transactions, transactions.c.kind, KINDS),
    (periods, periods.c.kind, ("serving", "training")),
    (periods, periods.c.status, ("open", "closed", "cut off")),
    (runs, runs.c.status, ("running", "finished", "stopped", "failed")),
)
"""Columns that hold one of a few words."""


def check_links(connection: Connection) -> Iterator[Finding]:
    """See the module."""
    yield from _missing_rows(connection)
    for table, column, words in KNOWN:
        query = select(*table.primary_key.columns, column).where(column.not_in(words))
        for key, word in connection.execute(query):
            says = f"its {column.name} is {word!r}, and can be {', '.join(words)}"
            yield Finding(place_of(table.name, key), "fault", says)
    yield from _different_rates(connection)
    yield from _different_models(connection)


def _missing_rows(connection: Connection) -> Iterator[Finding]:
    for table in metadata.sorted_tables:
        key = next(iter(table.primary_key.columns))
        for foreign in sorted(table.foreign_keys, key=lambda each: each.parent.name):
            wanted = foreign.column
            lost = foreign.parent.is_not(None) & foreign.parent.not_in(select(wanted))
            query = select(key, foreign.parent).where(lost).order_by(key).distinct()
            for number, named in connection.execute(query):
                says = f"names {place_of(wanted.table.name, named)}, which is missing"
                yield Finding(place_of(table.name, number), "fault", says)


def _different_rates(connection: Connection) -> Iterator[Finding]:
    """A posting, its receipt and the period of its account have one rate."""
    query = select(requests.c.id, requests.c.rate_id, transactions.c.rate_id)
    mine = (transactions.c.subject == requests.c.id) & (transactions.c.kind == "request")
    query = query.join(transactions, mine).where(transactions.c.rate_id != requests.c.rate_id)
    for name, rate, posted in connection.execute(query):
        yield Finding(f"request {name}", "fault", f"has rate {rate}, and was posted at rate {posted}")
    query = select(periods.c.account, requests.c.id, requests.c.rate_id).distinct()
    serving = (periods.c.account == requests.c.account) & (periods.c.number == 0)
    different = periods.c.rate_id != requests.c.rate_id
    for account, name, rate in connection.execute(query.join(periods, serving).where(different)):
        says = f"has rate {rate}, and the periods of its account {account} have another one"
        yield Finding(f"request {name}", "fault", says)


def _different_models(connection: Connection) -> Iterator[Finding]:
    """An account is that of one model with its adapters, and a run makes one model."""
    known = _registered(connection)
    for table, same, digest in (
        (requests, periods.c.account == requests.c.account, requests.c.weights_digest),
        (runs, periods.c.run_id == runs.c.id, null()),
    ):
        query = select(table.c.id, table.c.model, periods.c.model, digest).join(periods, same)
        different = query.where(periods.c.model != table.c.model, periods.c.number == 0)
        for name, model, metered, weights in connection.execute(different.distinct()):
            if _are_of_one_base(known, model, metered, weights):
                continue
            says = f"is of model {model}, and its meter was that of model {metered}"
            yield Finding(place_of(table.name, name), "fault", says)


@dataclass(frozen=True)
class _Registered:
    """Models that are or were registered."""

    bases: Mapping[str, set[str]]
    """Name -> digests of its versions, or of the bases of its versions where these are adapters."""
    used: Mapping[str, set[str]]
    """Name -> digests of the weights of its versions as they are used, of an adapter with its base."""


def _registered(connection: Connection) -> _Registered:
    bases: defaultdict[str, set[str]] = defaultdict(set)
    used: defaultdict[str, set[str]] = defaultdict(set)
    query = select(models.c.name, models.c.digest, models.c.lineage_json).where(models.c.digest != "")
    for name, digest, lineage in connection.execute(query):
        told = json.loads(lineage)
        base = told.get("parent_digest") if told.get("kind") == "adapter" else digest
        if base is not None:
            bases[name].add(base)
            used[name].add(digest if base == digest else digest_of_pair(digest, base))
    return _Registered(bases, used)


def _are_of_one_base(known: _Registered, model: str, metered: str, weights: str | None) -> bool:
    """Whether a request of `model` may be on the account of `metered`: they are adapters of one base, or it
    and an adapter, and the digest of its weights is not that of another model.

    A runner that rounds its weights has a digest that no version has. A folder that is not registered has no
    versions, and can have registered adapters.
    """
    mine, theirs = known.bases.get(model, set()), known.bases.get(metered, set())
    if weights is None or not mine or (theirs and not mine & theirs):
        return False
    return weights in known.used[model] or not any(weights in used for used in known.used.values())
