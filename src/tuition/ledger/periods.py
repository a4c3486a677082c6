"""Accounting periods on their way into the books.

In: an `Account`.  Out: one row per period. The row is there from the period's first moment, with status
`open`, and a separate thread brings it up to date about every second. It is closed after a minute or at the
end, and the next one begins where it ends. So a process that is killed leaves a row that lacks at most its
last second and names the requests that were in flight. The next process to open a period marks such a row as
cut off and posts what it holds.

    with Periods(books, account, rate_id, "bard", version=1) as periods:
        ...                                # use the account
        periods.write()                    # on return the period so far is on disk
"""

import json
import logging
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Self

from sqlalchemy import Connection, insert, select, update

from tuition.books.books import Books
from tuition.books.journal import note_stored
from tuition.books.schema import periods as table
from tuition.core.amount import Amount
from tuition.core.records import EnergyMethod
from tuition.ledger.account import Account
from tuition.ledger.costs import PeriodTotals
from tuition.ledger.postings import post
from tuition.ledger.process import has_ended, process_identity
from tuition.ledger.watched import WatchedTotals

log = logging.getLogger(__name__)

Status = Literal["open", "closed", "cut off"]

BEAT_S = 1.0
"""Between two updates of the open row."""

PERIOD_S = 60.0
"""Length of a period of a process that goes on."""

PARTS = ("meter", "attributed", "idle", "overhead", "posted", "in_flight", "residual")
FIGURES = (
    "start_ns", "end_ns", "busy_ns", "worked_ns", "num_lost", "running_ns", "num_steps", "flops",
    "witness_ns", "cpu_ns", "energy_method",
)  # fmt: skip
"""Columns of the table that are fields of `PeriodTotals` under the same name."""


class Periods:
    """See the module. Thread-safe. One for each account."""

    def __init__(
        self,
        books: Books,
        account: Account,
        rate_id: int,
        model: str,
        version: int | None = None,
        *,
        beat_s: float = BEAT_S,
        period_s: float = PERIOD_S,
    ) -> None:
        self.books, self.account = books, account
        self._beat_s, self._period_s = beat_s, period_s
        self._fixed = {
            "kind": "serving",
            "model": model,
            "version": version,
            "account": account.id,
            "process": process_identity(),
            "rate_id": rate_id,
        }
        self._number = 0
        self._begun_s = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Open the first row and keep it up to date. Raises: BooksError, BusyError."""
        with self._lock:
            if self._thread is None:
                self.books.write_now(close_cut_periods)
                self._write("open")
                self._thread = threading.Thread(target=self._run, name="periods", daemon=True)
                self._thread.start()
        return self

    def write(self) -> None:
        """Bring the row up to date; on return it is on disk. Raises: BooksError, BusyError."""
        with self._lock:
            if not self._ended.is_set():
                self._write("open")

    def close(self) -> None:
        """Close the last period; on return it is on disk. Safe to call twice.

        Raises: BooksError, BusyError.
        """
        with self._lock:
            if not self._ended.is_set():
                self._write("closed")
                self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        said = False
        while not self._ended.wait(self._beat_s) and not self.books.closed:
            try:
                self.write()
                said = False
            except Exception as error:  # the next beat writes everything since
                if not said:
                    log.error("the meter was not booked yet: %s", error)
                said = True

    def _write(self, status: Status) -> None:
        """With the lock held. After a failure the period goes on, so that nothing is lost."""
        totals = self.account.observe()
        ends = status == "closed" or time.monotonic() - self._begun_s >= self._period_s
        values = self._fixed | {"number": self._number, "status": "closed" if ends else status}
        rows = [values | columns_of(totals)]
        if ends and status == "open":
            following = {"number": self._number + 1, "status": "open"}
            rows.append(self._fixed | following | empty_columns() | carried_columns(totals))
        self.books.write_now(lambda connection: [write_period(connection, row) for row in rows])
        if len(rows) > 1:
            self.account.begin_period(totals)
            self._number, self._begun_s = self._number + 1, time.monotonic()


def columns_of(totals: PeriodTotals) -> dict[str, Any]:
    """The figures of a period as columns of its row."""
    columns: dict[str, Any] = {name: getattr(totals, name) for name in FIGURES}
    columns["open_requests"] = json.dumps(totals.open_requests)
    for part in PARTS:
        columns |= amount_columns(part, getattr(totals, part))
    return columns


def empty_columns() -> dict[str, Any]:
    """The figures of a period that has just begun."""
    columns: dict[str, Any] = dict.fromkeys(FIGURES, 0) | {"energy_method": None, "open_requests": "[]"}
    for part in PARTS:
        columns |= amount_columns(part, Amount())
    return columns


def run_columns(seen: WatchedTotals, work: Amount, steps: Amount, other: Amount) -> dict[str, Any]:
    """The figures of a run: `work` is what its bill was told, `steps` a part of that, `other` the rest."""
    overhead = work - steps + other
    columns = empty_columns() | {
        "end_ns": seen.meter.wall_ns,
        "busy_ns": seen.busy.wall_ns,
        "worked_ns": work.wall_ns,
        "witness_ns": seen.witness_ns,
        "cpu_ns": seen.cpu_ns,
    }
    residual = seen.meter - steps - overhead
    for part, amount in (("meter", seen.meter), ("overhead", overhead), ("residual", residual)):
        columns |= amount_columns(part, amount)
    return columns | amount_columns("attributed", steps) | amount_columns("posted", steps)


def carried_columns(totals: PeriodTotals) -> dict[str, Any]:
    """What the next period begins with: the end of this one, and the requests that are in flight."""
    begun = {"start_ns": totals.end_ns, "end_ns": totals.end_ns}
    names = {"open_requests": json.dumps(totals.open_requests)}
    return begun | names | amount_columns("in_flight", totals.in_flight)


def amount_columns(part: str, amount: Amount) -> dict[str, int | None]:
    """An amount as three columns."""
    return {
        f"{part}_wall_ns": amount.wall_ns,
        f"{part}_energy_uj": amount.energy_uj,
        f"{part}_cost_nusd": amount.cost_nusd,
    }


def amount_of_row(row: Mapping[Any, Any], part: str) -> Amount:
    """The amount in three columns of a row."""
    return Amount(row[f"{part}_wall_ns"], row[f"{part}_energy_uj"], row[f"{part}_cost_nusd"])


def write_period(connection: Connection, values: Mapping[str, Any]) -> int:
    """Insert or update a period's row and return its id. A period that closes is posted, once."""
    mine = (table.c.account == values["account"]) & (table.c.number == values["number"])
    found = connection.execute(select(table.c.id, table.c.status).where(mine)).first()
    values = dict(values) | {"updated_unix_ns": time.time_ns()}
    if found is None:
        row = values | {"created_unix_ns": values["updated_unix_ns"]}
        period_id = connection.execute(insert(table).values(**row).returning(table.c.id)).scalar_one()
    else:
        period_id = found.id
        if found.status == "closed":
            return period_id  # a write that was told to have failed was committed all the same
        connection.execute(update(table).where(table.c.id == period_id).values(**values))
    if values["status"] != "open":
        note_stored(connection, table, period_id)
    if values["status"] == "closed" and values["kind"] == "serving":
        _post(connection, period_id, values)
    return period_id


def _post(connection: Connection, period_id: int, row: Mapping[Any, Any]) -> None:
    lines = [(name, amount_of_row(row, name)) for name in ("idle", "overhead")]
    method: EnergyMethod | None = row["energy_method"]
    post(connection, "period", subject_of(period_id), row["rate_id"], lines, method=method)


def close_cut_periods(connection: Connection) -> None:
    """Mark the open periods of processes that have ended as cut off, and post what they hold."""
    for row in connection.execute(select(table).where(table.c.status == "open")).mappings().all():
        if not has_ended(row["process"], row["updated_unix_ns"]):
            continue
        mine = (table.c.id == row["id"]) & (table.c.status == "open")
        if not connection.execute(update(table).where(mine).values(status="cut off")).rowcount:
            continue
        note_stored(connection, table, row["id"])
        if row["kind"] == "serving":
            _post(connection, row["id"], row)


def subject_of(period_id: int) -> str:
    """How the transaction of a period names it."""
    return f"period {period_id}"
