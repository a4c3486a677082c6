"""The books in PostgreSQL: lost connections, locks, a full disk, and what must never be printed."""

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, make_url, select, text
from sqlalchemy.exc import IntegrityError

from postgresql_server import PostgresServer
from tuition.books.books import Books, open_books
from tuition.books.postgresql import PostgresStore
from tuition.books.schema import accounts, evaluations
from tuition.core.errors import BooksError, BusyError, MissingExtraError, UncertainCommitError
from tuition.core.workspace import Workspace

pytestmark = pytest.mark.postgresql


@pytest.fixture
def url(postgres: PostgresServer, migrated_database: str) -> str:
    postgres.empty(migrated_database)
    return postgres.url_of(migrated_database)


@pytest.fixture
def books(url: str) -> Iterator[Books]:
    with Books(PostgresStore(url)) as opened:
        yield opened


def add(name: str):
    return lambda connection: connection.execute(insert(accounts).values(name=name, kind="test")) and name


def names(books: Books) -> set[str]:
    return set(books.read(lambda connection: connection.execute(select(accounts.c.name)).scalars().all()))


def backend(connection: Connection) -> int:
    return connection.execute(text("SELECT pg_backend_pid()")).scalar_one()


def end(postgres: PostgresServer, pid: int) -> None:
    postgres.sql(f"SELECT pg_terminate_backend({pid}, 5000)")


def test_a_commit_is_synced_whatever_the_database_prefers(
    postgres: PostgresServer, empty_database: str
) -> None:
    name = make_url(empty_database).database
    postgres.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
    with Books(PostgresStore(empty_database)) as books:
        shown = books.write_now(lambda c: c.execute(text("SHOW synchronous_commit")).scalar())
    assert shown == "on"


def test_a_connection_lost_between_two_writes_is_not_noticed(postgres: PostgresServer, books: Books) -> None:
    for pid in (books.write_now(backend), books.read(backend)):
        end(postgres, pid)
    assert books.write_now(add("a")) == "a"
    assert names(books) == {"a"}


def test_a_connection_lost_inside_a_write_loses_that_group_only(
    postgres: PostgresServer, books: Books
) -> None:
    def cut(connection: Connection) -> None:
        add("lost")(connection)
        end(postgres, backend(connection))
        connection.execute(select(accounts)).all()

    with pytest.raises(BooksError, match=r"could not be reached.*try again"):
        books.write_now(cut)
    assert books.write_now(add("kept")) == "kept"
    assert names(books) == {"kept"}


class Cutter:
    """Between client and server: passes bytes on, until it is told to cut the line at the next COMMIT."""

    def __init__(self, server: Path, folder: Path) -> None:
        self.server, self.mode = server, "pass"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(folder / ".s.PGSQL.5432"))
        self._socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self.server))
            for one, other, is_client in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass, args=(one, other, is_client), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, is_client: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if is_client and b"COMMIT" in data and self.mode == "before":
                    self.mode = "pass"
                    break
                if is_client and b"COMMIT" in data and self.mode == "after":
                    self.mode = "swallow"
                elif not is_client and self.mode == "swallow":  # the server has committed; nobody will know
                    self.mode = "pass"
                    break
                target.sendall(data)
        except OSError:
            pass
        for end_of_line in (source, target):
            try:
                end_of_line.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def cutter(postgres: PostgresServer) -> Iterator[Cutter]:
    folder = postgres.folder / "cutter"  # short enough for a socket's path
    folder.mkdir()
    cutter = Cutter(postgres.folder / ".s.PGSQL.5432", folder)
    yield cutter
    cutter.close()
    shutil.rmtree(folder)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_commit_whose_answer_is_lost_is_asked_after(
    postgres: PostgresServer, url: str, cutter: Cutter, moment: str
) -> None:
    """The line breaks before COMMIT reaches the server, or after it: the writer's answer is right in both."""
    with Books(PostgresStore(url.replace(str(postgres.folder), f"{postgres.folder}/cutter"))) as books:
        books.write_now(add("first"))
        cutter.mode = moment
        future = books.write(add("second"))
        if moment == "after":
            assert future.result(20) == "second"
        else:
            with pytest.raises(BooksError) as caught:
                future.result(20)
            assert not isinstance(caught.value, UncertainCommitError)
        assert ("second" in names(books)) is (moment == "after")
        assert books.write_now(add("third")) == "third"


def test_a_writer_that_waits_too_long_is_busy_and_works_again(url: str, books: Books) -> None:
    hold, running = threading.Event(), threading.Event()
    with Books(PostgresStore(url, lock_timeout_s=0.1)) as other:
        first = books.write(lambda connection: running.set() or hold.wait(10))
        running.wait(10)
        with pytest.raises(BusyError, match="another process"):
            other.write_now(add("refused"))
        hold.set()
        first.result()
        assert other.write_now(add("accepted")) == "accepted"
        assert names(other) == {"accepted"}


def test_two_programs_write_side_by_side(url: str, books: Books) -> None:
    """Each counts what it finds and adds one: nothing is lost only if their transactions do not overlap."""

    def count_up(connection: Connection) -> int:
        number = len(connection.execute(select(accounts.c.id)).all())
        add(f"row {number}")(connection)
        return number

    with Books(PostgresStore(url)) as other:
        futures = [which.write(count_up) for _ in range(40) for which in (books, other)]
        assert sorted(future.result() for future in futures) == list(range(80))


def test_rows_that_are_only_added_cannot_be_truncated_either(books: Books) -> None:
    with pytest.raises(IntegrityError, match="rates is append only"):
        books.write_now(lambda c: c.execute(text("TRUNCATE rates CASCADE")) and None)


def test_a_full_disk_fails_the_group_and_heals_without_restart(postgres: PostgresServer) -> None:
    """A table space of 16 MB: the database's own log stays on the large disk."""
    place = postgres.folder / "small"
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        shutil.chown(place, postgres.user)
        postgres.sql(f"CREATE TABLESPACE small LOCATION '{place}'", "CREATE DATABASE small TABLESPACE small")
        with Books(PostgresStore(postgres.url_of("small"))) as books:
            row = {"model": "m", "task": "t", "mean": 1.0, "num_items": 1, "unit": "u", "created_unix_ns": 1}
            large = [row | {"details_json": str(i) * 500_000} for i in range(30)]
            books.write_now(add("kept"))
            with pytest.raises(BooksError, match=r"disk of the database server is full; free some space"):
                books.write_now(lambda c: fill(c, large))
            assert names(books) == {"kept"}
            assert books.write_now(add("later")) == "later"
        postgres.sql("DROP DATABASE small WITH (FORCE)", "DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "-l", place], check=True, timeout=10)


def fill(connection: Connection, rows: list[dict[str, object]]) -> None:
    """Text that cannot be compressed away."""
    connection.execute(text("ALTER TABLE evaluations ALTER COLUMN details_json SET STORAGE EXTERNAL"))
    connection.execute(insert(evaluations), rows)


SECRET = "hunter2-canary"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"postgresql://me:{SECRET}@127.0.0.1:1/db", r"postgresql://me@127.0.0.1:1/db could not be reached"),
        (f"postgres://me:{SECRET}@127.0.0.1:1/db", "could not be reached"),
        (f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/db", "could not be reached"),
        (f"postgresql://me@127.0.0.1:1/db?password={SECRET}", "could not be reached"),
        (f"postgresql://me:{SECRET}@127.0.0.1:notaport/db", "is no URL of a database"),
        (f"postgresql://me:p@{SECRET}@127.0.0.1/db", "more than one @"),
        (f"postgresql://me:{SECRET}@/db?host=/nowhere", "could not be reached"),
        (f"mysql://me:{SECRET}@127.0.0.1/db", "books in mysql are not supported"),
        (f"sqlite:///{SECRET}", "books in sqlite are not supported"),
        (f"{SECRET}", "is no URL of a database"),
        (f"postgresql://me:{SECRET}@127.0.0.1:1/db?nonsense={SECRET}", "could not be"),
    ],
)
def test_a_database_out_of_reach_is_one_line_without_the_password(
    tmp_path: Path, url: str, says: str
) -> None:
    with pytest.raises(BooksError, match=says) as caught:
        open_books(Workspace(tmp_path), url)
    error: BaseException | None = caught.value
    assert "\n" not in str(error)
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_a_wrong_password_is_said_without_it(postgres: PostgresServer, migrated_database: str) -> None:
    """The server of the tests trusts everybody, so the user is one that it does not have."""
    url = postgres.url_of(migrated_database).replace("tuition@", f"nobody-here:{SECRET}@")
    with pytest.raises(BooksError, match=r"nobody-here.*does not exist") as caught:
        PostgresStore(url)
    assert SECRET not in str(caught.value)


def test_without_the_driver_the_extra_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tuition\[postgres\]'"):
        PostgresStore(url)


def test_a_database_with_another_encoding_is_refused(postgres: PostgresServer) -> None:
    postgres.sql(
        "CREATE DATABASE latin ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
    )
    with pytest.raises(BooksError, match=r"stores text as SQL_ASCII; .*ENCODING 'UTF8'"):
        PostgresStore(postgres.url_of("latin"))


def test_several_workspaces_share_a_database_by_schemas(
    postgres: PostgresServer, empty_database: str
) -> None:
    name = make_url(empty_database).database
    urls = [f"{empty_database}&options=-csearch_path%3D{schema}" for schema in ("one", "two")]
    with pytest.raises(BooksError, match="create the schema"):
        PostgresStore(urls[0])
    postgres.sql("CREATE SCHEMA one", "CREATE SCHEMA two", database=name)
    for url, account in zip(urls, ("a", "b"), strict=True):
        with Books(PostgresStore(url)) as books:
            books.write_now(add(account))
            assert names(books) == {account}


def test_the_first_host_of_several_that_answers_is_used(url: str) -> None:
    with Books(PostgresStore(url.replace("?host=", "?host=/nowhere&host="))) as books:
        assert books.write_now(add("a")) == "a"


def test_books_whose_server_went_away_refuse_and_heal(tmp_path: Path) -> None:
    server = PostgresServer("-cfsync=off")
    try:
        with Books(PostgresStore(server.url_of("postgres"))) as books:
            books.write_now(add("before"))
            server.kill()
            for use in (lambda: books.write_now(add("refused")), lambda: names(books)):
                with pytest.raises(BooksError, match="could not be reached"):
                    use()
            server.start()
            assert books.write_now(add("after")) == "after"
            assert names(books) == {"before", "after"}
    finally:
        server.remove()
