"""kill -9 at random moments: what a client was told is in the books, once, and the books balance.

A killed process is not power loss: these tests cover the first, synchronous=FULL (a unit test) the second.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from postgresql_server import PostgresServer
from tuition.books.books import Books, open_books
from tuition.core.amount import NOTHING, Amount
from tuition.core.workspace import Workspace
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.statements import PROCESS_ENDED, training_receipt, training_receipts

SCRIPT = Path(__file__).with_name("writers.py")


class Forge:
    """Starts workers without paying for their imports, kills them, reads what they were told."""

    def __init__(self, root: Path) -> None:
        self.root, self.log, self.count = root / "home", root / "log", 0
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, line: str) -> str:
        print(line, file=self._process.stdin, flush=True)
        return self._process.stdout.readline().strip()

    def start(self, mode: str) -> int:
        self.count += 1
        return int(self.ask(f"start {mode} {self.root} {self.log} {self.count}"))

    def acknowledged(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def kill_after(self, mode: str, lines: int, patience_s: float = 30.0) -> None:
        """Start a worker, let it have `lines` more acknowledgements, kill it at once."""
        wanted = len(self.acknowledged()) + lines
        pid = self.start(mode)
        deadline = time.monotonic() + patience_s
        while len(self.acknowledged()) < wanted:
            assert time.monotonic() < deadline, "the worker makes no progress"
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        assert self.ask(f"wait {pid}") == "ended"

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)


@pytest.fixture
def forge(tmp_path: Path, database: str) -> Iterator[Forge]:
    forge = Forge(tmp_path)
    yield forge
    forge.close()


def rows(forge: Forge, query: str) -> list[tuple]:
    with open_books(Workspace(forge.root)) as books:
        return [tuple(row) for row in books.read(lambda c: c.execute(text(query)).all())]


def is_whole(forge: Forge) -> bool:
    """SQLite's own check of its file; PostgreSQL has none."""
    file = Workspace(forge.root).books
    if not file.exists():
        return True
    with sqlite3.connect(file) as database:
        return database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def lost(forge: Forge) -> set[str]:
    """Requests that a client holds an acknowledgement for and that the books do not have at that price."""
    found = {f"{name} {cost}" for name, cost in rows(forge, "SELECT id, total_cost_nusd FROM requests")}
    return set(forge.acknowledged()) - found


def kill_loop(forge: Forge, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(kills):
        forge.kill_after("requests", chance.randrange(1, 40))
    assert lost(forge) == set()
    assert is_whole(forge)
    acknowledged = forge.acknowledged()
    assert len(set(acknowledged)) == len(acknowledged)
    with open_books(Workspace(forge.root)) as books:
        found = reconcile(books)
        assert found.faults == ()
        assert len(found.losses) == kills, "each kill cut a period off, and the check says so"
        assert not found.holds
        assert found.residual == NOTHING
        assert found.requests != NOTHING
        late_s = found.after_period.seconds
        assert 0 <= late_s < kills * 1.0, "receipts without a meter: less than a second for each kill"
    print(f"D2 kills={kills} acknowledged={len(acknowledged)} lost=0 duplicated=0")


def test_ten_kills_lose_no_acknowledged_request(forge: Forge) -> None:
    kill_loop(forge, kills=10, seed=1)


@pytest.mark.slow
def test_two_hundred_kills_lose_no_acknowledged_request(forge: Forge, database: str) -> None:
    """A tenth of them over PostgreSQL, which has a process of its own to keep what it was given."""
    kill_loop(forge, kills=200 if database == "sqlite" else 20, seed=2)


def test_the_kill_loop_finds_a_writer_that_acknowledges_too_early(forge: Forge) -> None:
    """The same loop over a planted fault: a writer that answers inside its transaction loses rows."""
    forge.kill_after("requests", 1)
    for _ in range(5):
        forge.kill_after("hasty", 3)
        if lost(forge):
            return
    pytest.fail("five kills of a hasty writer lost nothing: the loop cannot see a loss")


def training_loop(forge: Forge, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(1, kills + 1):
        forge.kill_after("training", chance.randrange(1, 12))
        saved = int(forge.acknowledged()[-1])
        with open_books(Workspace(forge.root)) as books:
            receipt = training_receipt(books, f"run-{number}")
            assert (receipt.status, receipt.reason) == ("stopped", PROCESS_ENDED)
            assert receipt.num_steps >= saved > 0
            assert receipt.num_tokens >= 100 * saved
            assert receipt.total.cost_nusd > 0
            assert receipt.parts["step"].wall_ns >= saved * 1_000_000
            found = reconcile(books)
            assert found.faults == ()
            assert found.training == receipt_sum(books)
    print(f"kills={kills} runs billed={kills}")


def receipt_sum(books: Books) -> Amount:
    return sum((receipt.total for receipt in training_receipts(books)), NOTHING)


def test_a_killed_training_run_is_billed_up_to_its_last_save(forge: Forge) -> None:
    training_loop(forge, kills=4, seed=3)


@pytest.mark.slow
def test_a_hundred_killed_training_runs_are_billed(forge: Forge, database: str) -> None:
    kills = 100 if database == "sqlite" else 10
    training_loop(forge, kills=kills, seed=4)
    with open_books(Workspace(forge.root)) as books:
        assert len(training_receipts(books)) == kills


def test_two_processes_write_side_by_side(forge: Forge) -> None:
    """Both finish, nobody starves, nothing is lost, and the file is whole."""
    for pid in [forge.start("accounts"), forge.start("accounts")]:
        assert forge.ask(f"wait {pid}") == "ended"
    wanted = {f"{who}-{i}" for who in (1, 2) for i in range(60)}
    assert {name for (name,) in rows(forge, "SELECT machine_name FROM rates")} == wanted
    assert set(forge.acknowledged()) == wanted
    assert is_whole(forge)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of the test's own, since it is killed."""
    server = PostgresServer("-cfsync=off")  # SIGKILL loses what was not written, not what was not synced
    yield server
    server.remove()


def server_kill_loop(tmp_path: Path, server: PostgresServer, kills: int, seed: int) -> None:
    forge, chance = Forge(tmp_path), random.Random(seed)
    pid = forge.start("stubborn")
    try:
        for _ in range(kills):
            wanted = len(forge.acknowledged()) + chance.randrange(5, 60)
            deadline = time.monotonic() + 60
            while len(forge.acknowledged()) < wanted:
                assert time.monotonic() < deadline, "the worker makes no progress"
                time.sleep(0.001)
            server.kill()
            server.start()
        os.kill(pid, signal.SIGKILL)
        assert forge.ask(f"wait {pid}") == "ended"
        assert lost(forge) == set()
        with open_books(Workspace(forge.root)) as books:
            found = reconcile(books)
        assert found.faults == ()
        assert len(found.losses) == 1, "only the kill of the worker cut a period off"
        ((count, cost),) = rows(forge, "SELECT count(*), sum(total_cost_nusd) FROM requests")
        assert count - len(forge.acknowledged()) in (0, 1), "one row may be written and not yet acknowledged"
        assert found.requests.cost_nusd == cost
        print(f"D2 kills of the server={kills} acknowledged={count} lost=0 duplicated=0")
    finally:
        forge.close()


@pytest.mark.postgresql
def test_a_killed_database_server_loses_and_doubles_nothing(
    tmp_path: Path, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit whose answer was lost is asked after, and a row that is written again is written once."""
    monkeypatch.setenv("TUITION_DATABASE_URL", server.url_of("postgres"))
    server_kill_loop(tmp_path, server, kills=2, seed=5)


@pytest.mark.slow
@pytest.mark.postgresql
def test_ten_kills_of_the_database_server(
    tmp_path: Path, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUITION_DATABASE_URL", server.url_of("postgres"))
    server_kill_loop(tmp_path, server, kills=10, seed=6)
