"""One writer and group commit, the same over both databases."""

import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select
from sqlalchemy.exc import IntegrityError

from tuition.books.books import Books, open_books, open_store
from tuition.books.schema import accounts, evaluations, run_costs
from tuition.core.errors import BooksError
from tuition.core.workspace import Workspace


def add(name: str):
    return lambda connection: connection.execute(insert(accounts).values(name=name, kind="test")) and name


def names(books: Books) -> set[str]:
    """What is committed: another connection than the writer's reads it."""
    return set(books.read(lambda connection: connection.execute(select(accounts.c.name)).scalars().all()))


def test_a_write_is_durable_when_it_returns(workspace: Workspace, books: Books) -> None:
    assert books.write_now(add("a")) == "a"
    with open_books(workspace) as others:
        assert names(others) == {"a"}


def acknowledged_too_early(books: Books) -> list[str]:
    """Write from many threads and look, at the moment of each acknowledgement, from outside."""
    early: list[str] = []

    def check(name: str) -> None:
        if name not in names(books):
            early.append(name)

    futures = []
    for i in range(40):
        future = books.write(add(f"row {i}"))
        future.add_done_callback(lambda done, name=f"row {i}": check(name))
        futures.append(future)
    for future in futures:
        future.result()
    return early


def test_nothing_is_acknowledged_before_its_commit(books: Books) -> None:
    assert acknowledged_too_early(books) == []


def test_the_check_for_early_acknowledgement_finds_a_planted_one(workspace: Workspace, around: Any) -> None:
    """A store that answers inside the transaction is caught by the check above."""
    with Books(around["hasty"](open_store(workspace))) as books:
        assert acknowledged_too_early(books)
        books.write_now(add("last"))


def test_many_writers_share_commits(workspace: Workspace, around: Any) -> None:
    store = around["counting"](open_store(workspace))
    with Books(store) as books:
        hold, running = threading.Event(), threading.Event()
        first = books.write(lambda connection: running.set() or hold.wait(5))
        running.wait(5)
        rest = [books.write(add(f"{i}")) for i in range(50)]
        hold.set()
        for future in [first, *rest]:
            future.result()
        assert store.num_commits == 2


def test_a_slow_disk_delays_but_does_not_starve(workspace: Workspace, around: Any) -> None:
    """With 20 ms per commit, hundreds of writes still share few commits."""
    store = around["slow"](open_store(workspace))
    with Books(store) as books:
        began = time.monotonic()
        futures = [books.write(add(f"{i}")) for i in range(500)]
        for future in futures:
            future.result()
        assert time.monotonic() - began < 8  # 500 separate commits would take at least 10 s


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
    with pytest.raises(BooksError, match=r"read.?only"):
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


def test_a_callback_that_fails_leaves_the_writer_alive(books: Books) -> None:
    def leave(done: "Future[Any]") -> None:
        raise SystemExit("from a callback")

    books.write(add("a")).add_done_callback(leave)
    assert books.write_now(add("b")) == "b"


def test_an_error_of_the_operating_system_in_one_write_is_its_own(books: Books) -> None:
    """It is no failure of the database: the others of the group are committed."""

    def reads_a_file(connection: Connection) -> None:
        raise FileNotFoundError("mine")

    hold = threading.Event()
    first = books.write(lambda connection: hold.wait(5))
    broken, good = books.write(reads_a_file), books.write(add("x"))
    hold.set()
    first.result()
    assert good.result() == "x"
    with pytest.raises(FileNotFoundError):
        broken.result()


def test_sums_are_integers_beyond_64_bits_where_the_database_has_them(books: Books) -> None:
    """PostgreSQL sums 64-bit integers to a decimal number; a float would lose the last digits."""
    large = (1 << 61) + 1
    rows = [{"run_id": "r", "kind": kind, "wall_ns": large, "cost_nusd": 0} for kind in "abc"]

    def fill(connection: Connection) -> None:
        connection.exec_driver_sql(ANY_RATE)
        connection.exec_driver_sql(ANY_RUN)
        connection.execute(insert(run_costs), rows)

    books.write_now(fill)
    total, none, zero = books.read(
        lambda connection: connection.execute(
            select(
                func.sum(run_costs.c.wall_ns),
                func.sum(run_costs.c.energy_uj),
                func.coalesce(func.sum(run_costs.c.cost_nusd), 0),
            )
        ).one()
    )
    assert (total, none, zero) == (3 * large, None, 0)
    assert [type(value) for value in (total, zero)] == [int, int]


ANY_RATE = (
    "INSERT INTO rates (digest, created_unix_ns, machine_name, usd_per_hour, machine_json) "
    "VALUES ('d', 1, 'm', 0.5, '{}')"
)
ANY_RUN = (
    "INSERT INTO runs (id, model, recipe, scope, status, reason, created_unix_ns, updated_unix_ns, "
    "num_resumes, process, rate_id, settings_toml, num_steps, num_tokens, redone_tokens, flops, progress) "
    "VALUES ('r', 'm', 'pretrain', 'final run', 'running', '', 1, 1, 0, 'p', 1, '', 0, 0, 0, '0', 0)"
)


def test_text_is_sorted_and_kept_alike_on_every_database(books: Books) -> None:
    """By code point, of any length, and with what no database can hold written as escapes."""
    given = ["b", "B", "a-1", "a.", "a_", "é", "🧮", "x" * 5_000, "nul\0", "caf\udce9"]
    stored = [*given[:-2], "nul\\x00", "caf\\udce9"]
    for name in given:
        books.write_now(add(name))
    query = select(accounts.c.name).order_by(accounts.c.name)
    assert books.read(lambda c: c.execute(query).scalars().all()) == sorted(stored)
    found = select(accounts.c.name).where(accounts.c.name == "caf\udce9")
    assert books.read(lambda c: c.execute(found).scalar()) == "caf\\udce9"
    between = select(accounts.c.name).where(accounts.c.name >= "a-", accounts.c.name < "a.")
    assert books.read(lambda c: c.execute(between).scalars().all()) == ["a-1"]


def test_a_number_that_is_none_is_null(books: Books) -> None:
    row = {"model": "m", "task": "t", "mean": 1.0, "stderr": float("nan"), "num_items": 1, "unit": "u"}
    row |= {"created_unix_ns": 1}
    books.write_now(lambda c: c.execute(insert(evaluations).values(**row)) and None)
    assert books.read(lambda c: c.execute(select(evaluations.c.stderr)).scalar()) is None
