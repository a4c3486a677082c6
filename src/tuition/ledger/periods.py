"""Accounting periods of one account on their way into the books.

In: an `Account`.  Out: one row per period. The row is there from the period's first moment, with status
`open`, and is brought up to date about every second by a thread of its own; it is closed after a minute or at
the end, and the next one begins where it ends. So a process that is killed leaves a row that lacks at most its
last second, and that says which requests were in flight. Such rows are found and shown as cut off.

    with Periods(books, account, rate_id, "bard", version=1) as periods:
        ...                                # use the account
        periods.write()                    # on return the period so far is on disk
"""

import json
import logging
import threading
import time
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, insert, update

from tuition.books.books import Books
from tuition.books.schema import periods as table
from tuition.ledger.account import Account, PeriodTotals
from tuition.ledger.amount import Amount
from tuition.ledger.postings import post
from tuition.ledger.process import process_identity

log = logging.getLogger(__name__)

BEAT_S = 1.0
"""Between two updates of the open row."""

PERIOD_S = 60.0
"""Length of a period of a process that goes on."""


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
    ) -> None:
        self.books, self.account, self.rate_id = books, account, rate_id
        self.model, self.version = model, version
        self._beat_s = beat_s
        self._process = process_identity()
        self._number, self._row_id = 0, None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._begun_s = time.monotonic()

    def start(self) -> Self:
        """Open the first row and keep it up to date. Raises: BooksError, BusyError."""
        with self._lock:
            if self._thread is None:
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
        """Close the last period; on return it is on disk. Safe to call twice. Raises: BooksError, BusyError."""
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
                with self._lock:
                    if not self._ended.is_set():
                        self._write("open")
                said = False
            except Exception as error:  # the next beat writes everything since
                if not said:
                    log.error("idle time was not booked yet: %s", error)
                said = True

    def _write(self, status: str) -> None:
        """With the lock held. After a failure the period goes on, so that nothing is lost."""
        totals = self.account.observe()
        rolls_over = status == "open" and time.monotonic() - self._begun_s >= PERIOD_S
        values = self._values(totals, "closed" if rolls_over else status)
        number, row_id = self._number, self._row_id

        def write(connection: Connection) -> int:
            current = write_period(connection, values, number, row_id, self.rate_id, totals)
            if rolls_over:
                following = self._values(None, "open") | {"start_ns": totals.end_ns, "end_ns": totals.end_ns}
                current = write_period(connection, following, number + 1, None, self.rate_id, None)
            return current

        self._row_id = self.books.write_now(write)
        if rolls_over:
            self.account.begin_period(totals)
            self._number, self._begun_s = number + 1, time.monotonic()

    def _values(self, totals: PeriodTotals | None, status: str) -> dict[str, Any]:
        fixed = {
            "model": self.model,
            "version": self.version,
            "account": self.account.id,
            "process": self._process,
            "rate_id": self.rate_id,
            "status": status,
        }
        return fixed | period_columns(totals)


def period_columns(totals: PeriodTotals | None) -> dict[str, Any]:
    """The columns of a period's row; None is one that has just begun."""
    parts = ("meter", "attributed", "idle", "overhead", "posted", "in_flight", "residual")
    counts = ("start_ns", "end_ns", "busy_ns", "worked_ns", "num_lost", "running_ns", "num_steps", "flops")
    optional = ("witness_ns", "cpu_ns", "energy_method")
    columns: dict[str, Any] = {"updated_unix_ns": time.time_ns(), "open_requests": "[]"}
    for part in parts:
        amount: Amount = Amount() if totals is None else getattr(totals, part)
        columns[f"{part}_wall_ns"] = amount.wall_ns
        columns[f"{part}_energy_uj"] = amount.energy_uj
        columns[f"{part}_cost_nusd"] = amount.cost_nusd
    columns |= {name: 0 if totals is None else getattr(totals, name) for name in counts}
    columns |= {name: None if totals is None else getattr(totals, name) for name in optional}
    if totals is not None:
        columns["open_requests"] = json.dumps(totals.open_requests)
    return columns


def write_period(
    connection: Connection,
    values: dict[str, Any],
    number: int,
    row_id: int | None,
    rate_id: int,
    totals: PeriodTotals | None,
) -> int:
    """Insert or update a period's row and return its id; one that closes is posted."""
    if row_id is None:
        values = values | {"number": number, "created_unix_ns": time.time_ns()}
        row_id = connection.execute(insert(table).values(**values).returning(table.c.id)).scalar_one()
    else:
        connection.execute(update(table).where(table.c.id == row_id).values(**values))
    if values["status"] == "closed" and totals is not None:
        lines = [("idle", totals.idle), ("overhead", totals.overhead)]
        post(connection, "period", subject_of(row_id), rate_id, lines, method=totals.energy_method)
    return row_id


def subject_of(period_id: int) -> str:
    """How postings name a period."""
    return f"period {period_id}"
