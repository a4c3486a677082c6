"""The books in PostgreSQL, by URL. Writers of all processes queue at an advisory lock of the schema.

The tables go into the first schema of the connection's search_path; another one is chosen by the URL's
`?options=-csearch_path%3DNAME`. A connection that is lost while a commit is under way leaves open whether it
happened: the server is asked for the outcome before anybody gets an answer.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError

from tuition.books.postgresql_errors import is_environmental, sqlstate, translate
from tuition.books.revision import upgrade
from tuition.core.errors import BooksError, MissingExtraError, TuitionError, UncertainCommitError

R = TypeVar("R")

OLDEST = 13
"""The first version with pg_xact_status and 64-bit transaction ids under these names."""
LOCK_TIMEOUT_S = 30.0
ASK_FOR_S = 10.0
"""How long a lost connection's commit is asked after, once the server answers again."""

_WANTED = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
_TAKE_TURN = text(
    "SELECT pg_current_xact_id()::text "
    "FROM pg_advisory_xact_lock(hashtextextended('tuition books ' || current_schema(), 0))"
)
_OUTCOME = text("SELECT pg_xact_status(CAST(:xid AS xid8))")
_CONNECT = {"connect_timeout": 10, "client_encoding": "utf8"}
"""For the driver, where the URL does not say otherwise."""
_SYNC = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)


class PostgresStore:
    """See the module. A `Store`."""

    def __init__(self, url: str, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        parsed = _parse(url)
        self.name = _shown(parsed)
        self._password = parsed.password or str(parsed.query.get("password", ""))
        try:
            self._writer = _open_engine(parsed, lock_timeout_s)
            self._readers = _open_engine(parsed, None)
            self.commit(self._prepare)
        except Exception as error:
            raise self.translate(error) from None  # the cause could show the URL

    def commit(self, run: Callable[[Connection], R]) -> R:
        """See `Store`."""
        with self._writer.connect() as connection:
            transaction = connection.begin()
            xid = connection.execute(_TAKE_TURN).scalar_one()
            result = run(connection)
            try:
                transaction.commit()
            except DBAPIError as error:
                if not (error.connection_invalidated and self._was_committed(xid)):
                    raise
            return result

    def read(self, run: Callable[[Connection], R]) -> R:
        """See `Store`."""
        with self._readers.begin() as connection:
            return run(connection)

    def maintain(self) -> None:
        """PostgreSQL folds its own log, and its lock is fair."""

    def is_environmental(self, error: BaseException) -> bool:
        """See `Store`."""
        return is_environmental(error)

    def translate(self, error: BaseException) -> TuitionError:
        """See `Store`."""
        return translate(error, self.name, self._password)

    def close(self) -> None:
        """Close all connections."""
        self._readers.dispose()
        self._writer.dispose()

    def _prepare(self, connection: Connection) -> None:
        version = connection.execute(text("SHOW server_version_num")).scalar_one()
        if int(version) // 10_000 < OLDEST:
            raise BooksError(
                f"{self.name} is PostgreSQL {int(version) // 10_000}; use version {OLDEST} or newer"
            )
        encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
        if encoding != "UTF8":
            raise BooksError(
                f"{self.name} stores text as {encoding}; "
                "make the database with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
            )
        upgrade(connection)

    def _was_committed(self, xid: str) -> bool:
        """Ask the server what became of a transaction. Raises: UncertainCommitError if nobody answers."""
        deadline = time.monotonic() + ASK_FOR_S
        while time.monotonic() < deadline:
            try:
                with self._readers.begin() as connection:
                    status = connection.execute(_OUTCOME, {"xid": xid}).scalar()
                if status in ("committed", "aborted"):
                    return status == "committed"
            except DBAPIError as error:
                if sqlstate(error) == "22023":  # an id from the future: the crash left no trace of it
                    return False
            time.sleep(0.1)
        raise UncertainCommitError(
            f"the connection to {self.name} was lost during a commit, and whether it happened is unknown; "
            "when the database is back, look with `tuition bill` before you repeat anything"
        )


def _parse(url: str) -> URL:
    """The URL, for the driver that we use. Raises: BooksError, which never shows the URL itself."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise BooksError(f"TUITION_DATABASE_URL is no URL of a database; wanted {_WANTED}") from None
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise BooksError(
            f"books in {parsed.get_backend_name()} are not supported; "
            f"wanted {_WANTED}, or no TUITION_DATABASE_URL, for SQLite in the workspace"
        )
    if "@" in (parsed.host or ""):
        raise BooksError("TUITION_DATABASE_URL has more than one @; write %40 for one in the password")
    return parsed.set(drivername="postgresql+psycopg")


def _shown(url: URL) -> str:
    """The URL without password and options."""
    return URL.create("postgresql", url.username, None, url.host, url.port, url.database).render_as_string()


def _open_engine(url: URL, lock_timeout_s: float | None) -> Engine:
    """An engine for the single writer with its patience, or for up to four readers that cannot write."""
    is_reader = lock_timeout_s is None
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if is_reader else {}
    try:
        engine = create_engine(
            url,
            connect_args={name: value for name, value in _CONNECT.items() if name not in url.query},
            execution_options=options,
            pool_size=4 if is_reader else 1,
            max_overflow=0,
            pool_timeout=30,
            pool_pre_ping=True,  # a server that was restarted is found before a transaction begins
        )
    except ImportError:
        raise MissingExtraError("a PostgreSQL database", package="psycopg", extra="postgres") from None

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.execute(_SYNC)
        if lock_timeout_s is not None:
            connection.execute(f"SET lock_timeout = {round(lock_timeout_s * 1_000)}")
        connection.commit()

    return engine
