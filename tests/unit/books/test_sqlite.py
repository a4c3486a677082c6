"""The books in SQLite: synced commits, checkpoints, locks, and what happens when the disk says no."""

import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select

from tuition.books.books import Books, open_books
from tuition.books.schema import accounts
from tuition.books.sqlite import SqliteStore
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


def test_another_program_finds_what_was_acknowledged(workspace: Workspace, books: Books) -> None:
    books.write_now(add("a"))
    with sqlite3.connect(workspace.books) as other:
        assert other.execute("SELECT name FROM accounts").fetchall() == [("a",)]


def test_every_commit_is_synced_and_checkpoints_are_ours(books: Books) -> None:
    def pragmas(connection: Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "wal_autocheckpoint", "foreign_keys")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    assert books.write_now(pragmas) == ["wal", 2, 0, 1]  # 2 is FULL


def test_closing_leaves_no_log(workspace: Workspace) -> None:
    with open_books(workspace) as books:
        books.write_now(add("a"))
        assert Path(f"{workspace.books}-wal").exists()
    assert not Path(f"{workspace.books}-wal").exists()


def test_a_locked_workspace_is_busy_and_works_again_without_restart(workspace: Workspace) -> None:
    with Books(SqliteStore(workspace, lock_timeout_s=0.05)) as books:
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


def test_the_log_is_folded_into_the_database_when_it_has_grown(workspace: Workspace) -> None:
    log = Path(f"{workspace.books}-wal")
    sizes = []
    with Books(SqliteStore(workspace, checkpoint_bytes=100_000)) as books:
        for i in range(150):
            books.write_now(add(f"{i}" * 20))
            sizes.append(log.stat().st_size)
    assert max(sizes) < 300_000
    assert workspace.books.stat().st_size > 20_000
    folded = sum(later < earlier for earlier, later in itertools.pairwise(sizes))
    assert 3 <= folded <= 75, "folded now and then, not with every commit from the first time on"


@pytest.mark.parametrize("name", ["p?1", "a%20b", "a#b", "a b", "ünï", "[x]", "a'b", "caf\udce9", "file:x"])
def test_any_path_works(tmp_path: Path, name: str) -> None:
    """In a URL some of these characters would mean something: two workspaces would share one file."""
    for which in ("one", "two"):
        workspace = Workspace(tmp_path / name / which)
        with open_books(workspace) as books:
            books.write_now(add(which))
        with open_books(workspace) as books:
            assert names(books) == {which}
        assert sorted(path.name for path in workspace.root.iterdir()) == ["books.lock", "books.sqlite"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
