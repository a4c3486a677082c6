"""Do the books agree with the meter? Each line is an identity, with its residual by name."""

from dataclasses import dataclass

from sqlalchemy import Connection, Table, func, select

from tuition.books.books import Books
from tuition.books.schema import periods, requests, run_costs
from tuition.ledger.amount import NOTHING, Amount
from tuition.ledger.postings import balances, check_balance


@dataclass(frozen=True)
class Reconciliation:
    """meter = attributed + idle + overhead; attributed = posted + in flight; the accounts sum to nothing."""

    meter: Amount
    attributed: Amount
    idle: Amount
    overhead: Amount
    in_flight: Amount
    """Attributed to requests that were open when their engine's last period ended (lost if it was killed)."""
    after_period: Amount
    """Charged to requests since the last closed period; below zero: charged, the row was never written."""
    requests: Amount
    training: Amount
    accounts: dict[str, Amount]
    residual: Amount
    """meter - attributed - idle - overhead: nothing, or the books are wrong."""

    @property
    def holds(self) -> bool:
        """Whether every identity holds to the last unit."""
        accounts = sum(self.accounts.values(), NOTHING)
        machine = -self.accounts.get("machine", NOTHING)
        given = self.requests + self.training + self.idle + self.overhead
        return self.residual == NOTHING and accounts == NOTHING and machine == given


def reconcile(books: Books) -> Reconciliation:
    """Check all identities. Raises: BooksError if a transaction does not balance."""
    return books.read(_reconcile)


def _reconcile(connection: Connection) -> Reconciliation:
    check_balance(connection)
    meter, attributed, idle, overhead, posted = (
        _sum(connection, periods, part + "_", "wall_ns")
        for part in ("meter", "attributed", "idle", "overhead", "posted")
    )
    charged = _sum(connection, requests, "total_", "machine_ns")
    return Reconciliation(
        meter=meter,
        attributed=attributed,
        idle=idle,
        overhead=overhead,
        in_flight=attributed - posted,
        after_period=charged - posted,
        requests=charged,
        training=_sum(connection, run_costs, "", "wall_ns"),
        accounts=balances(connection),
        residual=meter - attributed - idle - overhead,
    )


def _sum(connection: Connection, table: Table, prefix: str, time_name: str) -> Amount:
    columns = [table.c[prefix + name] for name in (time_name, "energy_uj", "cost_nusd")]
    wall, energy, cost = connection.execute(select(*(func.coalesce(func.sum(c), 0) for c in columns))).one()
    return Amount(wall, energy, cost)
