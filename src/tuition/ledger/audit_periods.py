"""Check the periods of the books: the meter beside the shares, period after period, account by account."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, RowMapping, func, select

from tuition.books.schema import accounts, entries, periods, rates, requests, transactions
from tuition.core.amount import NOTHING, Amount
from tuition.core.units import format_duration
from tuition.ledger.finding import Finding, Loss
from tuition.ledger.meter import LONGEST_EXTRAPOLATION_NS
from tuition.ledger.periods import BEAT_S, PARTS, amount_of_row, subject_of
from tuition.ledger.process import has_ended
from tuition.ledger.rates import PER_HOUR, Rate
from tuition.ledger.stored import machine_of, stored_json

WITNESS_SLACK_NS = 50_000_000
WITNESS_SHARE = 10
"""The meter's clock may differ from the raw clock by this, and by one part in so many: a time service may
steer it by 8 % for a while. A clock that jumps differs by more."""


_CUT_OFF = f"its process ended without closing it: up to {BEAT_S:.1f} s of its meter are missing"


@dataclass(frozen=True)
class PeriodRow:
    """A period as it stands in the books."""

    id: int
    kind: str
    model: str
    run_id: str | None
    account: str | None
    number: int
    status: str
    """open, closed or cut off; an open one whose process has ended is cut off, too."""
    is_open: bool
    """Not posted yet."""
    start_ns: int
    end_ns: int
    busy_ns: int
    worked_ns: int
    num_lost: int
    running_ns: int
    witness_ns: int | None
    cpu_ns: int | None
    energy_method: str | None
    rate_id: int
    rate: Rate
    parts: int
    """Into how many parts the machine was divided."""
    open_requests: tuple[str, ...]
    amounts: dict[str, Amount] = field(repr=False)

    @property
    def place(self) -> str:
        """How a finding names it."""
        return f"period {self.id} ({self.run_id or self.model})"


def read_periods(connection: Connection) -> list[PeriodRow]:
    """All periods, by account and number."""
    query = select(periods, rates.c.machine_json)
    query = query.join(rates, rates.c.id == periods.c.rate_id)
    query = query.order_by(periods.c.account, periods.c.number, periods.c.id)
    return [_row(row) for row in connection.execute(query).mappings()]


def _row(row: RowMapping) -> PeriodRow:
    same = (
        "id", "kind", "model", "run_id", "account", "number", "start_ns", "end_ns", "busy_ns", "worked_ns",
        "num_lost", "running_ns", "witness_ns", "cpu_ns", "energy_method", "rate_id",
    )  # fmt: skip
    machine = machine_of(row["machine_json"], row["rate_id"])
    is_open = row["status"] == "open"
    ended = is_open and has_ended(row["process"], row["updated_unix_ns"])
    return PeriodRow(
        **{name: row[name] for name in same},
        status="cut off" if ended else row["status"],
        is_open=is_open,
        rate=Rate.from_table(machine),
        parts=machine.get("parts", 1),
        open_requests=tuple(stored_json(row["open_requests"], f"period {row['id']}", "open_requests")),
        amounts={part: amount_of_row(row, part) for part in PARTS},
    )


def check_periods(connection: Connection, rows: Sequence[PeriodRow]) -> Iterator[Finding]:
    """Each period by itself."""
    booked = _booked(connection)
    for row in rows:
        for says in _faults_of(row):
            yield Finding(row.place, "fault", says)
        if row.kind == "training" and row.status == "cut off":
            yield Finding(row.place, "loss", _CUT_OFF, Loss(row.id, row.running_ns, NOTHING, ()))
        if row.kind == "serving" and row.account is not None:
            found = booked.get(subject_of(row.id), {})
            for part in ("idle", "overhead"):
                wanted, posted = NOTHING if row.is_open else row.amounts[part], found.get(part, NOTHING)
                if posted != wanted:
                    says = f"its {part} is {wanted.exact}, and {posted.exact} was posted"
                    yield Finding(row.place, "fault", says)
    for subject in sorted(booked.keys() - {subject_of(row.id) for row in rows}):
        yield Finding(subject, "fault", "was posted, and its row is missing")


def _faults_of(row: PeriodRow) -> Iterator[str]:
    amounts = row.amounts
    residual = amounts["meter"] - amounts["attributed"] - amounts["idle"] - amounts["overhead"]
    if residual != NOTHING:
        yield f"its meter and its shares differ by {residual.exact}"
    if row.account is None:
        return  # from before the meter was independent
    if amounts["residual"] != residual:
        yield f"its residual is {residual.exact}, and {amounts['residual'].exact} was recorded"
    if row.num_lost:
        yield (
            f"{row.num_lost} steps were measured and never billed"
            if row.num_lost > 0
            else f"{-row.num_lost} steps were billed and never measured, or twice"
        )
    if row.busy_ns != row.worked_ns:
        yield f"its engine worked {row.busy_ns:,} ns, and {row.worked_ns:,} ns were billed as steps"
    if amounts["meter"].wall_ns != row.end_ns - row.start_ns:
        yield f"it lasts {row.end_ns - row.start_ns:,} ns, and its meter gave {amounts['meter'].wall_ns:,} ns"
    yield from _rate_faults(row)
    yield from _clock_faults(row)
    still = row.energy_method in ("nvml", "rapl") and not amounts["meter"].energy_uj
    if still and row.busy_ns > LONGEST_EXTRAPOLATION_NS:
        yield f"its energy counter ({row.energy_method}) stood still in {_s(row.busy_ns)} of work"


def _rate_faults(row: PeriodRow) -> Iterator[str]:
    """The rate applied to the meter's totals; time and energy are each rounded by less than a nanodollar."""
    meter, rate = row.amounts["meter"], row.rate
    wanted = rate.nusd_per_hour * meter.wall_ns + rate.nusd_per_kwh * (meter.energy_uj or 0)
    if abs(meter.cost_nusd * PER_HOUR - wanted) > 2 * PER_HOUR:
        costs = f"its time and energy cost {wanted // PER_HOUR:,} nUSD at rate {row.rate_id}"
        yield f"its meter gave {meter.cost_nusd:,} nUSD, and {costs}"


def _clock_faults(row: PeriodRow) -> Iterator[str]:
    wall_ns = row.amounts["meter"].wall_ns
    if row.witness_ns is None:
        return
    slack = WITNESS_SLACK_NS + max(wall_ns, row.witness_ns) // WITNESS_SHARE
    if abs(wall_ns - row.witness_ns) > slack:
        yield f"its clock passed {_s(wall_ns)}, and the system's raw clock passed {_s(row.witness_ns)}"


def _booked(connection: Connection) -> dict[str, dict[str, Amount]]:
    """What was posted for each period to each account."""
    sums: list[Any] = [
        func.coalesce(func.sum(entries.c[unit]), 0) for unit in ("wall_ns", "energy_uj", "cost_nusd")
    ]
    query = (
        select(transactions.c.subject, accounts.c.name, *sums)
        .join(entries, entries.c.transaction_id == transactions.c.id)
        .join(accounts, accounts.c.id == entries.c.account_id)
        .where(transactions.c.kind == "period")
        .group_by(transactions.c.subject, accounts.c.name)
    )
    found: dict[str, dict[str, Amount]] = defaultdict(dict)
    for subject, name, *units in connection.execute(query):
        found[subject][name] = Amount(*map(int, units))
    return found


def check_accounts(connection: Connection, rows: Iterable[PeriodRow]) -> Iterator[Finding]:
    """Each account: its periods follow one another, and its requests have receipts for what was charged."""
    chains: dict[str, list[PeriodRow]] = defaultdict(list)
    for row in rows:
        if row.account is not None:
            chains[row.account].append(row)
    charged = _charged(connection)
    for account, chain in sorted(chains.items(), key=lambda each: each[1][0].id):
        yield from _chain_faults(chain)
        yield from _share_faults(chain, charged.pop(account, NOTHING), connection)
    for account, amount in charged.items():
        if amount == NOTHING:
            continue
        says = f"receipts of {amount.exact} belong to it, and it has no period"
        yield Finding(f"account {account}", "fault", says)


def _charged(connection: Connection) -> dict[str, Amount]:
    units = ("machine_ns", "energy_uj", "cost_nusd")
    sums: list[Any] = [func.coalesce(func.sum(requests.c[f"total_{unit}"]), 0) for unit in units]
    query = select(requests.c.account, *sums).where(requests.c.account.is_not(None))
    found = connection.execute(query.group_by(requests.c.account))
    return {row[0]: Amount(int(row[1]), int(row[2]), int(row[3])) for row in found}


def _chain_faults(chain: Sequence[PeriodRow]) -> Iterator[Finding]:
    """Periods of an account are numbered from 0, and each begins where the one before ends."""
    number, end_ns = 0, 0
    for row in chain:
        if row.number != number:
            missing = f"period number {number} is missing before it"
            says = "comes twice in its account" if row.number < number else missing
            yield Finding(row.place, "fault", f"{says} (account {row.account})")
        elif row.start_ns != end_ns:
            gap = row.start_ns - end_ns
            how = f"{_s(gap)} after" if gap > 0 else f"{_s(-gap)} before"
            yield Finding(row.place, "fault", f"begins {how} the end of the period before it")
        number, end_ns = row.number + 1, row.end_ns
    for row in chain[:-1]:
        if row.is_open:
            yield Finding(row.place, "fault", "is open, and a later period of its account exists")


def _share_faults(chain: Sequence[PeriodRow], charged: Amount, connection: Connection) -> Iterator[Finding]:
    """attributed = posted + in flight, and posted = receipts, but for what came after the last beat."""
    last = chain[-1]
    attributed = posted = NOTHING
    dropped = NOTHING
    for row in chain:
        attributed, posted = attributed + row.amounts["attributed"], posted + row.amounts["posted"]
        lost = attributed - posted - row.amounts["in_flight"]
        if lost != dropped:  # a later period says it again; the first is the place
            yield Finding(row.place, "fault", f"{(lost - dropped).exact} of it belong to no request")
            dropped = lost
    open_amount = last.amounts["in_flight"]
    late = charged - posted
    if last.status == "closed" and late != NOTHING:
        says = f"its requests were charged {posted.exact}, and their receipts say {charged.exact}"
        yield Finding(last.place, "fault", says)
    if last.status == "closed" and open_amount != NOTHING:
        names = ", ".join(last.open_requests)
        yield Finding(last.place, "fault", f"ended with requests that were never charged: {names}")
    if last.status == "cut off":
        unknown = tuple(name for name in last.open_requests if not _has_receipt(connection, name))
        loss = Loss(last.id, last.running_ns, late, unknown)
        yield Finding(last.place, "loss", _text_of(loss), loss)


def _text_of(loss: Loss) -> str:
    """What is missing of an account whose process was killed."""
    parts = [_CUT_OFF]
    if loss.running_ns:
        parts.append(f"and a step that had run {_s(loss.running_ns)}")
    if loss.late != NOTHING:
        parts.append(f"receipts of {loss.late.exact} are later than its meter")
    if loss.requests:
        parts.append(f"in flight and without a receipt: {', '.join(loss.requests)}")
    return "; ".join(parts)


def _has_receipt(connection: Connection, name: str) -> bool:
    return connection.execute(select(requests.c.id).where(requests.c.id == name)).first() is not None


def _s(ns: int) -> str:
    return format_duration(ns / 1e9)
