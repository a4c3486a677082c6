"""kill -9 at random moments: what a client was told is in the books, once, and the books balance.

A killed process is not power loss: these tests cover the first, synchronous=FULL (a unit test) the second.
"""

import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from forge import Forge, ForgedProcess
from postgresql_server import PostgresServer
from tuition.books.books import Books, open_books
from tuition.core.amount import NOTHING, Amount
from tuition.core.workspace import Workspace
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.statements import PROCESS_ENDED, training_receipt, training_receipts

WRITER = "from reliability.ledger import writers; writers.main()"


class Writers:
    """Starts programs that write, kills them, reads what they were told."""

    def __init__(self, forge: Forge, root: Path) -> None:
        self.forge, self.root, self.log, self.count = forge, root / "home", root / "log", 0

    def start(self, mode: str) -> ForgedProcess:
        self.count += 1
        return self.forge.start(WRITER, [mode, str(self.root), str(self.log), str(self.count)])

    def acknowledged(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def wait_for(self, lines: int, patience_s: float) -> None:
        """Until there are `lines` more acknowledgements."""
        wanted, deadline = len(self.acknowledged()) + lines, time.monotonic() + patience_s
        while len(self.acknowledged()) < wanted:
            assert time.monotonic() < deadline, "the writer makes no progress"
            time.sleep(0.001)

    def kill_after(self, mode: str, lines: int) -> None:
        """Start a writer, let it have `lines` more acknowledgements, kill it at once."""
        process = self.start(mode)
        self.wait_for(lines, 30)
        kill(process)


def kill(process: ForgedProcess) -> None:
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    process.close()


@pytest.fixture
def writers(forge: Forge, tmp_path: Path, database: str) -> Writers:
    return Writers(forge, tmp_path)


def rows(writers: Writers, query: str) -> list[tuple]:
    with open_books(Workspace(writers.root)) as books:
        return [tuple(row) for row in books.read(lambda c: c.execute(text(query)).all())]


def is_whole(writers: Writers) -> bool:
    """SQLite's own check of its file; PostgreSQL has none."""
    file = Workspace(writers.root).books
    if not file.exists():
        return True
    with sqlite3.connect(file) as database:
        return database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def lost(writers: Writers) -> set[str]:
    """Requests that a client holds an acknowledgement for and that the books do not have at that price."""
    found = {f"{name} {cost}" for name, cost in rows(writers, "SELECT id, total_cost_nusd FROM requests")}
    return set(writers.acknowledged()) - found


def kill_loop(writers: Writers, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(kills):
        writers.kill_after("requests", chance.randrange(1, 40))
    assert lost(writers) == set()
    assert is_whole(writers)
    acknowledged = writers.acknowledged()
    assert len(set(acknowledged)) == len(acknowledged)
    with open_books(Workspace(writers.root)) as books:
        found = reconcile(books)
        assert found.faults == ()
        assert len(found.losses) == kills, "each kill cut a period off, and the check says so"
        assert not found.holds
        assert found.residual == NOTHING
        assert found.requests != NOTHING
        late_s = found.after_period.seconds
        assert 0 <= late_s < kills * 1.0, "receipts without a meter: less than a second for each kill"
    print(f"D2 kills={kills} acknowledged={len(acknowledged)} lost=0 duplicated=0")


def test_ten_kills_lose_no_acknowledged_request(writers: Writers) -> None:
    kill_loop(writers, kills=10, seed=1)


@pytest.mark.slow
def test_two_hundred_kills_lose_no_acknowledged_request(writers: Writers, database: str) -> None:
    """A tenth of them over PostgreSQL, which has a process of its own to keep what it was given."""
    kill_loop(writers, kills=200 if database == "sqlite" else 20, seed=2)


def test_the_kill_loop_finds_a_writer_that_acknowledges_too_early(writers: Writers) -> None:
    """The same loop over a planted fault: a writer that answers inside its transaction loses rows."""
    writers.kill_after("requests", 1)
    for _ in range(5):
        writers.kill_after("hasty", 3)
        if lost(writers):
            return
    pytest.fail("five kills of a hasty writer lost nothing: the loop cannot see a loss")


def training_loop(writers: Writers, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(1, kills + 1):
        writers.kill_after("training", chance.randrange(1, 12))
        saved = int(writers.acknowledged()[-1])
        with open_books(Workspace(writers.root)) as books:
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


def test_a_killed_training_run_is_billed_up_to_its_last_save(writers: Writers) -> None:
    training_loop(writers, kills=4, seed=3)


@pytest.mark.slow
def test_a_hundred_killed_training_runs_are_billed(writers: Writers, database: str) -> None:
    kills = 100 if database == "sqlite" else 10
    training_loop(writers, kills=kills, seed=4)
    with open_books(Workspace(writers.root)) as books:
        assert len(training_receipts(books)) == kills


def test_two_processes_write_side_by_side(writers: Writers) -> None:
    """Both finish, nobody starves, nothing is lost, and the file is whole."""
    for process in [writers.start("accounts"), writers.start("accounts")]:
        assert process.wait(120) == 0
        process.close()
    wanted = {f"{who}-{i}" for who in (1, 2) for i in range(60)}
    assert {name for (name,) in rows(writers, "SELECT machine_name FROM rates")} == wanted
    assert set(writers.acknowledged()) == wanted
    assert is_whole(writers)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of the test's own, since it is killed."""
    server = PostgresServer("-cfsync=off")  # SIGKILL loses what was not written, not what was not synced
    yield server
    server.remove()


def server_kill_loop(writers: Writers, server: PostgresServer, kills: int, seed: int) -> None:
    chance, process = random.Random(seed), writers.start("stubborn")
    try:
        for _ in range(kills):
            writers.wait_for(chance.randrange(5, 60), 60)
            server.kill()
            server.start()
    finally:
        kill(process)
    assert lost(writers) == set()
    with open_books(Workspace(writers.root)) as books:
        found = reconcile(books)
    assert found.faults == ()
    assert len(found.losses) == 1, "only the kill of the writer cut a period off"
    ((count, cost),) = rows(writers, "SELECT count(*), sum(total_cost_nusd) FROM requests")
    assert count - len(writers.acknowledged()) in (0, 1), "one row may be written and not yet acknowledged"
    assert found.requests.cost_nusd == cost
    print(f"D2 kills of the server={kills} acknowledged={count} lost=0 duplicated=0")


@pytest.mark.postgresql
def test_a_killed_database_server_loses_and_doubles_nothing(
    forge: Forge, tmp_path: Path, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit whose answer was lost is asked after, and a row that is written again is written once."""
    monkeypatch.setenv("TUITION_DATABASE_URL", server.url_of("postgres"))
    server_kill_loop(Writers(forge, tmp_path), server, kills=2, seed=5)


@pytest.mark.slow
@pytest.mark.postgresql
def test_ten_kills_of_the_database_server(
    forge: Forge, tmp_path: Path, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUITION_DATABASE_URL", server.url_of("postgres"))
    server_kill_loop(Writers(forge, tmp_path), server, kills=10, seed=6)
