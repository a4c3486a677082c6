"""The books: read them from any thread, write them through one thread with group commit.

    with open_books(workspace) as books:
        books.write_now(lambda connection: connection.execute(insert(...)))     # durable when it returns
        future = books.write(fn)                    # many threads: their writes share one commit
        rows = books.read(lambda connection: connection.execute(select(...)).all())

They are in a SQLite file of the workspace, or in PostgreSQL where TUITION_DATABASE_URL names one. After a
full disk, a lock or a lost connection the next write tries again; nothing has to be restarted.
"""

import atexit
import os
from collections.abc import Callable
from concurrent.futures import Future
from itertools import islice
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tuition.books.odd_values import odd_values
from tuition.books.postgresql import PostgresStore
from tuition.books.schema import place_of
from tuition.books.sqlite import SqliteStore
from tuition.books.store import Store
from tuition.books.writer import Writer
from tuition.core.errors import BooksError, BusyError, OddValueError
from tuition.core.workspace import Workspace

R = TypeVar("R")

DATABASE_URL = "TUITION_DATABASE_URL"


def open_books(workspace: Workspace, url: str | None = None) -> "Books":
    """Open, and create or migrate where needed, the books of `workspace`.

    `url`: postgresql://USER:PASSWORD@HOST:PORT/DATABASE; left out, what TUITION_DATABASE_URL says, else
    SQLite in the workspace.
    Raises: BooksError if they cannot be used or are of a newer version; BusyError if they stay locked;
    MissingExtraError if the driver is not installed.
    """
    return Books(open_store(workspace, url))


def open_store(workspace: Workspace, url: str | None = None) -> Store:
    """The database of `open_books`, for a `Books` of the caller's own making."""
    url = url or os.environ.get(DATABASE_URL)
    return PostgresStore(url) if url else SqliteStore(workspace)


class Books:
    """See the module. Use `open_books`; close it, or use it with `with`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writer = Writer(store)
        atexit.register(self.close)

    @property
    def name(self) -> str:
        """Where they are, for people: a path, or a URL without its password."""
        return self._store.name

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._writer.closed

    def write(self, fn: Callable[[Connection], R]) -> "Future[R]":
        """Run `fn` in the writer's thread; the future resolves to its result after the commit.

        `fn` gets a SQLAlchemy connection inside a transaction and must not commit. If `fn` raises, only its
        own changes are undone and the future carries its error as it is (sqlalchemy.exc.IntegrityError for a
        key that exists). The future carries BooksError or BusyError when the database cannot be written:
        then nothing of it is in the books. Callbacks of the future run in the writer's thread: short ones
        only, and no writes. With asyncio: `await asyncio.wrap_future(books.write(fn))`.
        """
        return self._writer.write(fn)

    def write_now(self, fn: Callable[[Connection], R]) -> R:
        """`write` and wait: on return the change is durable."""
        return self.write(fn).result()

    def read(self, fn: Callable[[Connection], R]) -> R:
        """Run `fn` in this thread on a snapshot of what is committed; it cannot write.

        Raises: BooksError, BusyError. `fn` must fetch its rows, since the connection is given back.
        """
        if self.closed:
            raise BooksError(f"the books at {self.name} are closed; open them again")
        try:
            return self._store.read(fn)
        except OddValueError as error:
            raise BooksError(self._store.read(_odd_rows) or str(error)) from error
        except DBAPIError as error:
            raise self._store.translate(error) from error
        except PoolTimeout:
            raise BusyError(f"too many readers of the books at {self.name}", retry_after_s=1) from None

    def close(self) -> None:
        """Commit what is queued and give the database back. Safe to call twice."""
        if self._writer.close():
            atexit.unregister(self.close)
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _odd_rows(connection: Connection) -> str:
    """Where the books hold no number in place of one; empty if nowhere."""
    found = [
        f"{place_of(table, key)} has {value!r} in {column}"
        for table, key, column, value in islice(odd_values(connection), 5)
    ]
    if not found:
        return ""
    return (
        f"{'; '.join(found)}: a number belongs there; something other than tuition has changed the books: "
        "put back a copy from before"
    )
