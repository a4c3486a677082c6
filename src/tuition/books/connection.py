"""How SQLite is opened: write-ahead log, every commit on disk, checkpoints only when we say so.

Python's own transaction handling is switched off, so that BEGIN stands where SQLAlchemy thinks it does and
schema changes are part of their transaction.
"""

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event

BUSY_TIMEOUT_S = 5.0
"""Only recovery after a crash or a foreign program can make us wait: writers queue at the file lock."""


def open_engine(path: Path, *, writer: bool) -> Engine:
    """An engine for the single writer, or for up to four readers that cannot write."""
    engine = create_engine(
        f"sqlite+pysqlite:///{path}",
        connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None, "check_same_thread": False},
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
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA trusted_schema=OFF")
    if not writer:
        connection.execute("PRAGMA query_only=ON")
