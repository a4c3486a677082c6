"""Accounting periods of one engine on their way into the books.

In: an `EngineAccount`, drained from time to time.  Out: rows of idle time and overhead. A period that the
books could not take goes with the next one: what was drained is nowhere else.
"""

import threading
from collections import deque

from tuition.books.books import Books
from tuition.ledger.attribution import EngineAccount, PeriodTotals
from tuition.ledger.receipts import record_period


class Periods:
    """See the module. Thread-safe. One for each account."""

    def __init__(
        self, books: Books, account: EngineAccount, rate_id: int, model: str, version: int | None = None
    ) -> None:
        self.books, self.account, self.rate_id = books, account, rate_id
        self.model, self.version = model, version
        self._unwritten: deque[PeriodTotals] = deque()
        self._lock = threading.Lock()

    def write(self) -> None:
        """Close the period; on return it and all before it are on disk. Raises: BooksError, BusyError."""
        with self._lock:
            self._unwritten.append(self.account.drain_period())
            while self._unwritten:
                oldest = self._unwritten[0]
                record_period(self.books, self.model, oldest, self.rate_id, self.version).result()
                self._unwritten.popleft()
