"""One writer, group commit, and what happens when the disk says no."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select
from sqlalchemy.exc import IntegrityError

from tuition.books import books as books_module
from tuition.books.books import Books, open_books
from tuition.books.schema import accounts
from tuition.core.errors import BooksError, BusyError
from tuition.core.lock import FileLock
from tuition.core.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


@pytest.fixture
def books(workspace: Workspace) -> Iterator[Books]:
    with open_books(workspace) as opened:
        yield opened


def add(name: str):
    return lambda connection: connection.execute(insert(accounts).values(name=name, kind="test")) and name


def names(books: Books) -> set[str]:
    return set(books.read(lambda connection: connection.execute(select(accounts.c.name)).scalars().all()))


def names_outside(workspace: Workspace) -> set[str]:
    """What another process would find: only what is committed."""
    with sqlite3.connect(workspace.books) as other:
        return {row[0] for row in other.execute("SELECT name FROM accounts")}


def test_a_write_is_on_disk_when_it_returns(workspace: Workspace, books: Books) -> None:
    assert books.write_now(add("a")) == "a"
    assert names_outside(workspace) == {"a"}


def test_every_commit_is_synced_and_checkpoints_are_ours(books: Books) -> None:
    def pragmas(connection: Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "wal_autocheckpoint", "foreign_keys")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    assert books.write_now(pragmas) == ["wal", 2, 0, 1]  # 2 is FULL


def acknowledged_too_early(workspace: Workspace, books: Books) -> list[str]:
    """Write from many threads and look, at the moment of each acknowledgement, from outside."""
    early: list[str] = []

    def check(name: str, future: "Future[str]") -> None:
        if name not in names_outside(workspace):
            early.append(name)

    futures = []
    for i in range(40):
        future = books.write(add(f"row {i}"))
        future.add_done_callback(lambda done, name=f"row {i}": check(name, done))
        futures.append(future)
    for future in futures:
        future.result()
    return early


def test_nothing_is_acknowledged_before_its_commit(workspace: Workspace, books: Books) -> None:
    assert acknowledged_too_early(workspace, books) == []


def test_the_check_for_early_acknowledgement_finds_a_planted_one(
    workspace: Workspace, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that answers inside the transaction is caught by the check above."""

    def hasty(self: Books, group: list) -> None:
        with self._lock, self._writer.begin() as connection:
            for fn, future in group:
                future.set_result(fn(connection))

    monkeypatch.setattr(Books, "_commit_group", hasty)
    assert acknowledged_too_early(workspace, books)


def test_many_writers_share_commits(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    commit = Books._commit_group
    monkeypatch.setattr(
        Books, "_commit_group", lambda self, group: sizes.append(len(group)) or commit(self, group)
    )
    hold, running = threading.Event(), threading.Event()
    first = books.write(lambda connection: running.set() or hold.wait(5))
    running.wait(5)
    rest = [books.write(add(f"{i}")) for i in range(50)]
    hold.set()
    for future in [first, *rest]:
        future.result()
    assert sizes == [1, 50]


def test_a_write_that_fails_undoes_only_itself(books: Books) -> None:
    hold = threading.Event()
    first = books.write(lambda connection: hold.wait(5))
    good, bad, also_good = books.write(add("x")), books.write(add("x")), books.write(add("y"))

    def half(connection: Connection) -> None:
        add("half")(connection)
        raise KeyError("changed my mind")

    broken = books.write(half)
    hold.set()
    first.result()
    assert (good.result(), also_good.result()) == ("x", "y")
    with pytest.raises(IntegrityError):
        bad.result()
    with pytest.raises(KeyError):
        broken.result()
    assert names(books) == {"x", "y"}


def test_a_read_cannot_write_and_sees_one_moment(books: Books) -> None:
    books.write_now(add("before"))

    def read(connection: Connection) -> tuple[int, int]:
        count = select(func.count()).select_from(accounts)
        first = connection.execute(count).scalar_one()
        books.write_now(add("meanwhile"))
        return first, connection.execute(count).scalar_one()

    assert books.read(read) == (1, 1)
    with pytest.raises(BooksError, match=r"readonly"):
        books.read(add("not allowed"))
    assert names(books) == {"before", "meanwhile"}


def test_a_write_inside_a_write_is_refused_rather_than_waited_for(books: Books) -> None:
    with pytest.raises(RuntimeError, match="inside a write"):
        books.write_now(lambda connection: books.write_now(add("inner")))


def test_closed_books_say_so(workspace: Workspace) -> None:
    books = open_books(workspace)
    pending = books.write(add("last"))
    books.close()
    books.close()
    assert pending.result(1) == "last"
    for use in (lambda: books.write(add("more")), lambda: names(books)):
        with pytest.raises(BooksError, match="closed"):
            use()
    assert not Path(f"{workspace.books}-wal").exists()


def test_a_locked_workspace_is_busy_and_works_again_without_restart(
    workspace: Workspace, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books._lock.timeout_s = 0.05
    with FileLock(workspace.lock), pytest.raises(BusyError) as caught:
        books.write_now(add("refused"))
    assert caught.value.retry_after_s >= 1
    assert books.write_now(add("accepted")) == "accepted"
    assert names(books) == {"accepted"}


def test_a_foreign_lock_on_the_database_is_busy_too(workspace: Workspace, books: Books) -> None:
    books.write_now(lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout=50") and None)
    other = sqlite3.connect(workspace.books, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusyError):
        books.write_now(add("refused"))
    other.execute("ROLLBACK")
    other.close()
    assert books.write_now(add("accepted")) == "accepted"


def test_a_full_disk_fails_the_group_and_heals_without_restart(books: Books) -> None:
    """max_page_count makes SQLite report the same error as a disk without space."""
    books.write_now(add("kept"))

    def shrink(connection: Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    books.write_now(shrink)

    def large(connection: Connection) -> None:
        connection.execute(insert(accounts), [{"name": f"{i:060d}", "kind": "x"} for i in range(2_000)])

    with pytest.raises(BooksError, match=r"full.*free some space"):
        books.write_now(large)
    assert names(books) == {"kept"}
    books.write_now(large)  # a fresh connection has no such limit: the disk has space again
    assert len(names(books)) == 2_001


def test_a_read_only_database_is_refused_with_the_way_out(books: Books) -> None:
    """Root can write to any file; SQLite's own switch gives the same error."""
    books.write_now(lambda connection: connection.exec_driver_sql("PRAGMA query_only=ON") and None)
    with pytest.raises(BooksError, match="writable"):
        books.write_now(add("refused"))
    assert books.write_now(add("accepted")) == "accepted"


def test_a_file_that_is_no_database_is_refused(workspace: Workspace) -> None:
    workspace.create().books.write_bytes(b"not a database at all" * 100)
    with pytest.raises(BooksError, match="not a database"):
        open_books(workspace)


def test_other_databases_are_refused_by_name_for_now(workspace: Workspace) -> None:
    with pytest.raises(BooksError, match="postgresql"):
        open_books(workspace, url="postgresql://user:secret@host/db")


def test_the_log_is_folded_into_the_database_when_it_has_grown(
    workspace: Workspace, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books_module, "CHECKPOINT_BYTES", 100_000)
    log = Path(f"{workspace.books}-wal")
    largest = 0
    for i in range(150):
        books.write_now(add(f"{i}" * 20))
        largest = max(largest, log.stat().st_size)
    assert largest < 300_000
    assert workspace.books.stat().st_size > 20_000


def test_a_slow_disk_delays_but_does_not_starve(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 20 ms per commit, hundreds of writes from eight threads still share few commits."""
    commit = Books._commit_group

    def slow(self: Books, group: list) -> None:
        time.sleep(0.02)
        commit(self, group)

    monkeypatch.setattr(Books, "_commit_group", slow)
    began = time.monotonic()
    futures = [books.write(add(f"{i}")) for i in range(500)]
    for future in futures:
        future.result()
    assert time.monotonic() - began < 5  # 500 separate commits would take at least 10 s
