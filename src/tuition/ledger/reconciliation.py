"""Do the books agree with the meter? Every identity of the books, and each place where one does not hold.

In: `Books`.  Out: a `Reconciliation`: the sums for people, and findings. A finding names its place (a
period, a request, a transaction, a run, a rate) and says what was found and what was wanted. A `fault` is an
entry that is wrong or missing; a `loss` is what a process that was killed could not write any more. Losses
that were accepted are listed apart.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, Table, func, select

from tuition.books.books import Books
from tuition.books.schema import requests, run_costs
from tuition.core.amount import NOTHING, Amount
from tuition.ledger.audit_entries import (
    check_accounts_of,
    check_entries,
    check_rates,
    check_requests,
    check_runs,
)
from tuition.ledger.audit_journal import check_journal
from tuition.ledger.audit_links import check_links
from tuition.ledger.audit_losses import sort_losses
from tuition.ledger.audit_periods import PeriodRow, check_accounts, check_periods, read_periods
from tuition.ledger.finding import Acceptance, Finding
from tuition.ledger.postings import balances


@dataclass(frozen=True)
class Witnessed:
    """The meter beside the operating system's figures for the same processes, where recorded."""

    meter_ns: int
    """By the meter's clock."""
    witness_ns: int
    """By the second clock."""
    busy_ns: int
    cpu_ns: int
    """CPU time of the processes, all threads: beside busy time, whether other work had the machine."""


@dataclass(frozen=True)
class Reconciliation:
    """meter = attributed + idle + overhead + residual; attributed = posted + in flight; accounts sum to 0."""

    meter: Amount
    attributed: Amount
    idle: Amount
    overhead: Amount
    residual: Amount
    """meter - attributed - idle - overhead; a value other than 0 is an error."""
    in_flight: Amount
    """Attributed to requests that were open at the end of their account's last period."""
    after_period: Amount
    """Charged to requests since their account's last period was brought up to date."""
    requests: Amount
    training: Amount
    accounts: dict[str, Amount]
    machine_ns: int
    """The meter's time as time of the whole machine: models side by side share it."""
    witnessed: Witnessed
    findings: tuple[Finding, ...]
    accepted: tuple[Acceptance, ...] = ()
    """Losses that are known: not among the findings."""

    @property
    def holds(self) -> bool:
        """Whether every identity holds to the last unit and nothing was lost that is not accepted."""
        return not self.findings

    @property
    def is_empty(self) -> bool:
        """Whether nothing was booked yet, and nothing is wrong."""
        return not (
            self.accounts or self.machine_ns or self.witnessed.meter_ns or self.findings or self.accepted
        )

    @property
    def faults(self) -> tuple[Finding, ...]:
        """Entries that are wrong or missing."""
        return tuple(each for each in self.findings if each.kind == "fault")

    @property
    def losses(self) -> tuple[Finding, ...]:
        """Records that killed processes could not write."""
        return tuple(each for each in self.findings if each.kind == "loss")


def reconcile(books: Books) -> Reconciliation:
    """Check all identities."""
    return books.read(reconcile_in)


def reconcile_in(connection: Connection) -> Reconciliation:
    """`reconcile` inside a transaction of the caller's."""
    rows = read_periods(connection)
    serving = [row for row in rows if row.kind == "serving"]
    sums = {part: sum((row.amounts[part] for row in serving), NOTHING) for part in (
        "meter", "attributed", "idle", "overhead", "posted",
    )}  # fmt: skip
    charged = _sum(connection, requests, "total_", "machine_ns")
    accounts = balances(connection)
    training = _sum(connection, run_costs, "", "wall_ns")
    found = [
        *check_entries(connection),
        *check_accounts_of(connection),
        *check_links(connection),
        *check_rates(connection),
        *check_requests(connection),
        *check_runs(connection, rows),
        *check_periods(connection, rows),
        *check_accounts(connection, serving),
        *_check_machine(accounts, charged + training, serving),
        *check_journal(connection),
    ]
    findings, accepted = sort_losses(connection, found)
    known = [row for row in rows if row.witness_ns is not None and row.cpu_ns is not None]
    return Reconciliation(
        meter=sums["meter"],
        attributed=sums["attributed"],
        idle=sums["idle"],
        overhead=sums["overhead"],
        residual=sums["meter"] - sums["attributed"] - sums["idle"] - sums["overhead"],
        in_flight=sums["attributed"] - sums["posted"],
        after_period=charged - sums["posted"],
        requests=charged,
        training=training,
        accounts=accounts,
        machine_ns=sum(row.amounts["meter"].wall_ns // row.parts for row in serving),
        witnessed=Witnessed(
            sum(row.amounts["meter"].wall_ns for row in known),
            sum(row.witness_ns or 0 for row in known),
            sum(row.busy_ns for row in known),
            sum(row.cpu_ns or 0 for row in known),
        ),
        findings=findings,
        accepted=accepted,
    )


def _check_machine(accounts: dict[str, Amount], spent: Amount, serving: list[PeriodRow]) -> list[Finding]:
    """The total of the machine's account equals the cost of requests, training and closed periods."""
    for row in serving:
        if not row.is_open:
            spent += row.amounts["idle"] + row.amounts["overhead"]
    given = -accounts.get("machine", NOTHING)
    if given == spent:
        return []
    return [Finding("account machine", "fault", f"has given {given.exact}, and {spent.exact} was spent")]


def _sum(connection: Connection, table: Table, prefix: str, time_name: str) -> Amount:
    columns = [table.c[prefix + name] for name in (time_name, "energy_uj", "cost_nusd")]
    query = select(*(func.coalesce(func.sum(column), 0) for column in columns))
    wall, energy, cost = connection.execute(query).one()
    return Amount(int(wall), int(energy), int(cost))
