"""The books in a SQLite file: write-ahead log, every commit on disk, checkpoints only when we say so.

Every write transaction and every checkpoint, of any process, runs under the file lock of the workspace:
SQLite older than 3.51.3 may damage the file when a write and a checkpoint of different connections race.
Commits are synchronous=FULL: they survive power loss where the disk honours fsync.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event

from tuition.books.revision import upgrade
from tuition.books.sqlite_errors import is_environmental, translate
from tuition.core.errors import TuitionError
from tuition.core.lock import FileLock
from tuition.core.workspace import Workspace

R = TypeVar("R")
log = logging.getLogger("tuition.books")

CHECKPOINT_BYTES = 4 << 20
"""The write-ahead log is folded into the database when it has grown to this."""
CHECKPOINT_RETRY_S = 1.0
"""After a checkpoint that failed (a full disk), commits go on for this long without another attempt."""

BUSY_TIMEOUT_S = 5.0
"""Only recovery after a crash or a foreign program can make us wait: writers queue at the file lock."""
LOCK_TIMEOUT_S = 30.0

FAIR_AFTER_S = 0.05
FAIR_PAUSE_S = 0.004
"""A busy writer steps back this long, this often: a writer in another process polls and must get its turn."""


class SqliteStore:
    """See the module. A `Store`."""

    def __init__(
        self,
        workspace: Workspace,
        *,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
    ) -> None:
        self.path = workspace.books
        self.name = str(self.path)
        self.checkpoint_bytes = checkpoint_bytes
        self._lock = FileLock(workspace.lock, lock_timeout_s)
        self._last_pause = time.monotonic()
        self._no_checkpoint_before = 0.0
        try:
            workspace.create()
            self._writer = _open_engine(self.path, writer=True)
            self._readers = _open_engine(self.path, writer=False)
            self.commit(upgrade)
        except Exception as error:
            raise self.translate(error) from error

    def commit(self, run: Callable[[Connection], R]) -> R:
        """See `Store`. SQLite reports an error from COMMIT only where it has undone the transaction."""
        try:
            with self._lock, self._writer.begin() as connection:
                result = run(connection)
        except BaseException:
            self._forget_connection()
            raise
        return result

    def read(self, run: Callable[[Connection], R]) -> R:
        """See `Store`."""
        with self._readers.begin() as connection:
            return run(connection)

    def maintain(self) -> None:
        """Fold a long log into the database, and let writers of other processes have their turn."""
        now = time.monotonic()
        if now >= self._no_checkpoint_before:
            self._checkpoint_if_grown()
        if now - self._last_pause > FAIR_AFTER_S:
            time.sleep(FAIR_PAUSE_S)
            self._last_pause = time.monotonic()

    def is_environmental(self, error: BaseException) -> bool:
        """See `Store`."""
        return is_environmental(error)

    def translate(self, error: BaseException) -> TuitionError:
        """See `Store`."""
        return translate(error, self.path)

    def close(self) -> None:
        """Fold the log into the database, which a full disk only postpones, and close the file."""
        try:
            with self._lock:
                try:
                    self._checkpoint("TRUNCATE")
                finally:
                    self._readers.dispose()
                    self._writer.dispose()  # closing the last connection checkpoints: hence inside the lock
        except Exception as error:
            log.warning("the log of the books was not folded in: %s", self.translate(error))

    def _checkpoint_if_grown(self) -> None:
        """A checkpoint that fails takes nothing back: the log stays longer, and a later one tries again."""
        try:
            if os.stat(f"{self.path}-wal").st_size >= self.checkpoint_bytes:
                with self._lock:
                    self._checkpoint("PASSIVE")
        except Exception as error:
            self._no_checkpoint_before = time.monotonic() + CHECKPOINT_RETRY_S
            log.warning("the log of the books stays long for now: %s", self.translate(error))
            self._forget_connection()

    def _checkpoint(self, mode: str) -> None:
        with self._writer.connect() as connection:
            connection.connection.cursor().execute(f"PRAGMA wal_checkpoint({mode})").fetchall()

    def _forget_connection(self) -> None:
        """After a failure: the next commit opens a fresh connection."""
        try:
            with self._lock:
                self._writer.dispose()
        except Exception:  # noqa: S110  (already failing, and the caller has the reason)
            pass


def _open_engine(path: Path, *, writer: bool) -> Engine:
    """An engine for the single writer, or for up to four readers that cannot write.

    The path is handed over as it is: in a URL, `?`, `#` and `%` would mean something else. Python's own
    transaction handling is switched off, so that BEGIN stands where SQLAlchemy thinks it does and schema
    changes are part of their transaction.
    """
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        ),
        poolclass=QueuePool,
        pool_size=1 if writer else 4,
        max_overflow=0,  # an overflow connection would be closed outside the lock, and closing may checkpoint
        pool_timeout=30,
        pool_reset_on_return="rollback",
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        _prepare(connection, writer=writer)

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")

    return engine


def _prepare(connection: sqlite3.Connection, *, writer: bool) -> None:
    if writer:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("PRAGMA journal_size_limit=0")  # after a checkpoint the log's file is short again
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA trusted_schema=OFF")
    if not writer:
        connection.execute("PRAGMA query_only=ON")
