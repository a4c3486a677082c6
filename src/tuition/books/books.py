"""The books of a workspace: read them from any thread, write them through one thread with group commit.

    with open_books(workspace) as books:
        books.write_now(lambda connection: connection.execute(insert(...)))     # on disk when it returns
        future = books.write(fn)                    # many threads: their writes share one commit
        rows = books.read(lambda connection: connection.execute(select(...)).all())

A future resolves only after the COMMIT that holds its write has returned (synchronous=FULL, so it survives
power loss where the disk honours fsync). Every write transaction and every checkpoint, of any process, runs
under the file lock of the workspace: SQLite older than 3.51.3 may damage the file when a write and a
checkpoint of different connections race. After a full disk or a lock the next write tries again; nothing has
to be restarted.
"""

import atexit
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tuition.books.connection import open_engine
from tuition.books.errors import is_environmental, translate
from tuition.books.migrate import current_revision, migrate
from tuition.core.errors import BooksError, BusyError, TuitionError
from tuition.core.lock import FileLock
from tuition.core.workspace import Workspace

R = TypeVar("R")
log = logging.getLogger("tuition.books")

MOST_PER_COMMIT = 256
"""Writes in one group: bounds how long the file lock is held."""

CHECKPOINT_BYTES = 4 << 20
"""The write-ahead log is folded into the database when it has grown to this."""

CHECKPOINT_RETRY_S = 1.0
"""After a checkpoint that failed (a full disk), commits go on for this long without another attempt."""

FAIR_AFTER_S = 0.05
FAIR_PAUSE_S = 0.004
"""A busy writer steps back this long, this often: a writer in another process polls and must get its turn."""

Write = tuple[Callable[[Connection], Any], "Future[Any]"]


def open_books(workspace: Workspace, url: str | None = None) -> "Books":
    """Open, and create or migrate where needed, the books of `workspace`.

    `url`: another database; refused, since only SQLite in the workspace is supported.
    Raises: BooksError if the file cannot be used or is of a newer version; BusyError if it stays locked.
    """
    if url is not None:
        kind = url.split(":", 1)[0]
        raise BooksError(
            f"books in {kind} are not supported yet; leave the URL out, to use {workspace.books}"
        )
    return Books(workspace)


class Books:
    """See the module. Use `open_books`; close it, or use it with `with`."""

    def __init__(self, workspace: Workspace) -> None:
        self.path: Path = workspace.books
        self._lock = FileLock(workspace.lock)
        self._queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._closed = False
        self._close_lock = threading.Lock()
        self._pid = os.getpid()
        self._last_pause = time.monotonic()
        self._no_checkpoint_before = 0.0
        try:
            workspace.create()
            self._writer: Engine = open_engine(self.path, writer=True)
            self._readers: Engine = open_engine(self.path, writer=False)
            with self._lock, self._writer.begin() as connection:
                migrate(connection)
        except (DBAPIError, OSError, TuitionError) as error:
            raise translate(error, self.path) from error
        self._thread = threading.Thread(target=self._run, name="books-writer", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def write(self, fn: Callable[[Connection], R]) -> "Future[R]":
        """Run `fn` in the writer's thread; the future resolves to its result after the commit.

        `fn` gets a SQLAlchemy connection inside a transaction and must not commit. If `fn` raises, only its
        own changes are undone and the future carries its error as it is (sqlalchemy.exc.IntegrityError for a
        key that exists). The future carries BooksError or BusyError when the database cannot be written.
        Callbacks of the future run in the writer's thread: short ones only, and no writes. With asyncio:
        `await asyncio.wrap_future(books.write(fn))`.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a write inside a write would wait for itself; use the connection that fn was given"
            )
        future: Future[R] = Future()
        with self._close_lock:
            if self._closed:
                raise BooksError(f"the books at {self.path} are closed; open them again")
            self._queue.put((fn, future))
        return future

    def write_now(self, fn: Callable[[Connection], R]) -> R:
        """`write` and wait: on return the change is durable."""
        return self.write(fn).result()

    def read(self, fn: Callable[[Connection], R]) -> R:
        """Run `fn` in this thread on a snapshot of what is committed; it cannot write.

        Raises: BooksError, BusyError. `fn` must fetch its rows, since the connection is given back.
        """
        if self._closed:
            raise BooksError(f"the books at {self.path} are closed; open them again")
        try:
            with self._readers.begin() as connection:
                return fn(connection)
        except DBAPIError as error:
            raise translate(error, self.path) from error
        except PoolTimeout:
            raise BusyError(f"too many readers of the books at {self.path}", retry_after_s=1) from None

    def close(self) -> None:
        """Commit what is queued, fold the log into the database, close. Safe to call twice."""
        if os.getpid() != self._pid:  # a forked child owns neither the thread nor the locks
            return
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        atexit.unregister(self.close)
        try:
            with self._lock:
                try:
                    self._checkpoint("TRUNCATE")
                finally:
                    self._readers.dispose()
                    self._writer.dispose()  # closing the last connection checkpoints: hence inside the lock
        except Exception as error:  # every write has had its answer: the log keeps what was committed
            log.warning("the log of the books was not folded in: %s", translate(error, self.path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the writer's thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        last = False
        while not last:
            group, last = self._next_group()
            if group:
                self._commit_group(group)

    def _next_group(self) -> tuple[list[Write], bool]:
        group: list[Write] = []
        item = self._queue.get()
        while item is not None:
            if item[1].set_running_or_notify_cancel():
                group.append(item)
            if len(group) >= MOST_PER_COMMIT:
                return group, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _commit_group(self, group: list[Write]) -> None:
        outcomes: list[tuple[Any, BaseException | None]] = []
        try:
            with self._lock, self._writer.begin() as connection:
                for fn, _ in group:
                    outcomes.append(_run_one(connection, fn))
        except Exception as error:
            failure = translate(error, self.path)
            self._forget_connection()
            for _, future in group:
                future.set_exception(failure)
            return
        # Acknowledge first: whatever happens after the COMMIT, a committed write must never look failed.
        for (_, future), (result, problem) in zip(group, outcomes, strict=True):
            if problem is None:
                future.set_result(result)
            else:
                future.set_exception(problem)
        self._checkpoint_if_grown()
        self._be_fair()

    def _be_fair(self) -> None:
        now = time.monotonic()
        if now - self._last_pause > FAIR_AFTER_S:
            time.sleep(FAIR_PAUSE_S)
            self._last_pause = time.monotonic()

    def _checkpoint_if_grown(self) -> None:
        """A checkpoint that fails takes nothing back: the log stays longer, and a later one tries again."""
        if time.monotonic() < self._no_checkpoint_before:
            return
        try:
            if os.stat(f"{self.path}-wal").st_size >= CHECKPOINT_BYTES:
                with self._lock:
                    self._checkpoint("PASSIVE")
        except Exception as error:
            self._no_checkpoint_before = time.monotonic() + CHECKPOINT_RETRY_S
            log.warning("the log of the books stays long for now: %s", translate(error, self.path))
            self._forget_connection()

    def _checkpoint(self, mode: str) -> None:
        with self._writer.connect() as connection:
            connection.connection.cursor().execute(f"PRAGMA wal_checkpoint({mode})").fetchall()

    def _forget_connection(self) -> None:
        """After a failure: the next group opens a fresh connection."""
        try:
            with self._lock:
                self._writer.dispose()
        except Exception:  # noqa: S110  (already failing: the group's futures carry the reason)
            pass


def _run_one(connection: Connection, fn: Callable[[Connection], Any]) -> tuple[Any, BaseException | None]:
    """One write of a group: its own failure undoes only itself. Raises what puts the whole group in doubt."""
    savepoint = connection.begin_nested()
    try:
        result = fn(connection)
        savepoint.commit()
    except BaseException as error:  # SystemExit, too: the writer's thread must outlive what it runs
        if is_environmental(error):
            raise
        savepoint.rollback()
        return None, error
    return result, None


def revision_of(books: Books) -> str | None:
    """The schema revision the books are at."""
    return books.read(current_revision)
