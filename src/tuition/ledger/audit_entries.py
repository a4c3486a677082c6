"""Check the entries of the books: transactions, requests, runs and rates, each beside what it must equal."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Float, Subquery, case, cast, func, select

from tuition.books.schema import accounts, entries, rates, requests, run_costs, runs, transactions
from tuition.core.amount import NOTHING, Amount
from tuition.ledger.audit_periods import PeriodRow
from tuition.ledger.finding import Finding
from tuition.ledger.rates import PER_HOUR, Rate
from tuition.ledger.stored import machine_of

UNITS = ("wall_ns", "energy_uj", "cost_nusd")
REQUEST_UNITS = ("machine_ns", "energy_uj", "cost_nusd")

ACCOUNTS = {
    "request": ("inference", "waste"),
    "training": ("training", "training overhead"),
    "period": ("idle", "overhead"),
}
"""What each kind of transaction is posted to, beside the machine's account."""


def check_entries(connection: Connection) -> Iterator[Finding]:
    """Every transaction has two sides or more, which sum to zero in time, energy and money."""
    sums: list[Any] = [func.coalesce(func.sum(entries.c[unit]), 0) for unit in UNITS]
    unbalanced = (sums[0] != 0) | (sums[1] != 0) | (sums[2] != 0) | (func.count(entries.c.id) < 2)
    query = (
        select(transactions.c.id, transactions.c.subject, func.count(entries.c.id), *sums)
        .outerjoin(entries, entries.c.transaction_id == transactions.c.id)
        .group_by(transactions.c.id, transactions.c.subject)
        .having(unbalanced)
        .order_by(transactions.c.id)
    )
    for number, subject, count, *totals in connection.execute(query):
        sides = "one side" if count == 1 else f"{count} entries"
        says = f"has {sides}, with a sum of {_amount(totals).exact} in place of nothing"
        yield Finding(f"transaction {number} ({subject})", "fault", says)


def check_rates(connection: Connection) -> Iterator[Finding]:
    """A rate is as it was when it was recorded."""
    for row in connection.execute(select(rates)).mappings():
        place, table = f"rate {row['id']}", row["machine_json"]
        if hashlib.sha256(table.encode()).hexdigest() != row["digest"]:
            yield Finding(
                place, "fault", "its figures were changed after it was recorded: the digest differs"
            )
            continue
        machine = machine_of(table, row["id"])
        if (recorded := machine["usd_per_hour"]) != row["usd_per_hour"]:
            says = f"says {row['usd_per_hour']} USD per hour, and {recorded} was recorded"
            yield Finding(place, "fault", says)
        if (recorded := machine["name"][:200]) != row["machine_name"]:
            says = f"says that its machine is {row['machine_name']}, and {recorded} was recorded"
            yield Finding(place, "fault", says)


def check_requests(connection: Connection) -> Iterator[Finding]:
    """Every request row was posted once, with its amount; every posting of a request has its row."""
    posted = _posted("request")
    number = func.coalesce(posted.c.number, 0)
    found: list[Any] = [func.coalesce(posted.c[unit], 0) for unit in UNITS]
    row: list[Any] = [func.coalesce(requests.c[f"total_{unit}"], 0) for unit in REQUEST_UNITS]
    differs = (found[0] != row[0]) | (found[1] != row[1]) | (found[2] != row[2]) | (number > 1)
    query = select(requests.c.id, number, *row, *found).where(differs).order_by(requests.c.id)
    query = query.outerjoin(posted, posted.c.subject == requests.c.id)
    for name, count, *units in connection.execute(query):
        charged, booked = _amount(units[:3]), _amount(units[3:])
        times = {0: "it was not posted", 1: f"posted was {booked.exact}"}
        posting = times.get(count, f"it was posted {count} times, in all {booked.exact}")
        yield Finding(f"request {name}", "fault", f"its receipt says {charged.exact}; {posting}")
    missing = select(posted.c.subject).where(posted.c.subject.not_in(select(requests.c.id)))
    for name in connection.execute(missing).scalars():
        yield Finding(f"request {name}", "fault", "was posted, and its receipt is missing")
    parts = [
        requests.c[f"total_{unit}"] != requests.c[f"prefill_{unit}"] + requests.c[f"decode_{unit}"]
        for unit in REQUEST_UNITS
    ]
    for name in connection.execute(select(requests.c.id).where(parts[0] | parts[1] | parts[2])).scalars():
        yield Finding(f"request {name}", "fault", "its prefill and decode do not add up to its total")
    waste: list[Any] = [func.coalesce(requests.c[f"waste_{unit}"], 0) for unit in REQUEST_UNITS]
    apart: list[Any] = [func.coalesce(posted.c[f"apart_{unit}"], 0) for unit in UNITS]
    differs = (waste[0] != apart[0]) | (waste[1] != apart[1]) | (waste[2] != apart[2])
    query = select(requests.c.id, *waste, *apart).join(posted, posted.c.subject == requests.c.id)
    for name, *units in connection.execute(query.where(differs).order_by(requests.c.id)):
        says = f"its waste is {_amount(units[:3]).exact}, and {_amount(units[3:]).exact} was posted as waste"
        yield Finding(f"request {name}", "fault", says)
    yield from _check_prices(connection)


def check_accounts_of(connection: Connection) -> Iterator[Finding]:
    """Each kind of transaction is posted to its own accounts."""
    for kind, (first, second) in ACCOUNTS.items():
        query = (
            select(transactions.c.id, transactions.c.subject, accounts.c.name)
            .join(entries, entries.c.transaction_id == transactions.c.id)
            .join(accounts, accounts.c.id == entries.c.account_id)
            .where(transactions.c.kind == kind, accounts.c.name.not_in(("machine", first, second)))
            .order_by(transactions.c.id)
        )
        for number, subject, name in connection.execute(query):
            says = f"was posted to account {name}; {kind} is posted to {first} and {second}"
            yield Finding(f"transaction {number} ({subject})", "fault", says)


def _check_prices(connection: Connection) -> Iterator[Finding]:
    """A request costs what its time and energy cost at its rate; a step may round each by a nanodollar."""
    for rate_id, table in connection.execute(select(rates.c.id, rates.c.machine_json)):
        rate = Rate.from_table(machine_of(table, rate_id))
        hours = cast(requests.c.total_machine_ns, Float) / PER_HOUR
        kwh = cast(func.coalesce(requests.c.total_energy_uj, 0), Float) / PER_HOUR
        wanted = hours * rate.nusd_per_hour + kwh * rate.nusd_per_kwh
        off = func.abs(requests.c.total_cost_nusd - wanted) > 2 * (requests.c.num_steps + 1)
        query = select(requests.c.id, requests.c.total_cost_nusd, wanted)
        for name, cost, right in connection.execute(query.where(off, requests.c.rate_id == rate_id)):
            costs = f"its time and energy cost {right:,.0f} nUSD at rate {rate_id}"
            yield Finding(f"request {name}", "fault", f"its receipt says {cost:,} nUSD, and {costs}")


def check_runs(connection: Connection, rows: Iterable[PeriodRow]) -> Iterator[Finding]:
    """What a run costs by kind is what was posted for it, and what the meters of its processes gave."""
    besides = case((run_costs.c.kind != "step", 1), else_=0)
    sums: list[Any] = [
        func.sum(which * func.coalesce(run_costs.c[unit], 0)) for which in (1, besides) for unit in UNITS
    ]
    query = select(run_costs.c.run_id, *sums).group_by(run_costs.c.run_id)
    told = {row[0]: (_amount(row[1:4]), _amount(row[4:])) for row in connection.execute(query)}
    posted = {row[0]: (_amount(row[2:5]), _amount(row[5:])) for row in connection.execute(
        select(_posted("training"))
    )}  # fmt: skip
    costs = {name: whole for name, (whole, _) in told.items()}
    nothing = (NOTHING, NOTHING)
    for name in sorted({*told, *posted}):
        (mine, my_rest), (theirs, their_rest) = told.get(name, nothing), posted.get(name, nothing)
        if mine != theirs:
            yield Finding(
                f"run {name}", "fault", f"its costs are {mine.exact}, and {theirs.exact} was posted"
            )
        elif my_rest != their_rest:
            says = f"its costs without its steps are {my_rest.exact}, and {their_rest.exact} was posted"
            yield Finding(f"run {name}", "fault", f"{says} as training overhead")
    metered: dict[str, Amount] = {}
    for row in rows:
        if row.kind == "training" and row.run_id is not None:
            metered[row.run_id] = metered.get(row.run_id, NOTHING) + row.amounts["meter"]
    for name in connection.execute(select(runs.c.id).where(runs.c.metered).order_by(runs.c.id)).scalars():
        meter = metered.get(name, NOTHING)
        if meter != costs.get(name, NOTHING):
            says = f"its costs are {costs.get(name, NOTHING).exact}, and its meters gave {meter.exact}"
            yield Finding(f"run {name}", "fault", says)


def _posted(kind: str) -> Subquery:
    """What each subject of one kind of transaction was charged: its entries but for the machine's side.

    `apart_`: of it, what is in the second account of this kind.
    """
    mine = case((accounts.c.name != "machine", 1), else_=0)
    apart = case((accounts.c.name == ACCOUNTS[kind][1], 1), else_=0)
    sums: list[Any] = [
        func.sum(which * func.coalesce(entries.c[unit], 0)).label(prefix + unit)
        for prefix, which in (("", mine), ("apart_", apart))
        for unit in UNITS
    ]
    number = func.count(transactions.c.id.distinct()).label("number")
    return (
        select(transactions.c.subject.label("subject"), number, *sums)
        .join(entries, entries.c.transaction_id == transactions.c.id)
        .join(accounts, accounts.c.id == entries.c.account_id)
        .where(transactions.c.kind == kind)
        .group_by(transactions.c.subject)
        .subquery()
    )


def _amount(units: Iterable[Any]) -> Amount:
    wall_ns, energy_uj, cost_nusd = (int(unit or 0) for unit in units)
    return Amount(wall_ns, energy_uj, cost_nusd)
