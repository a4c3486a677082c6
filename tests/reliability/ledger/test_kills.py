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

from tuition.books.books import Books, open_books
from tuition.core.workspace import Workspace
from tuition.ledger.amount import NOTHING, Amount
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
def forge(tmp_path: Path) -> Iterator[Forge]:
    forge = Forge(tmp_path)
    yield forge
    forge.close()


def rows(forge: Forge, query: str) -> list[tuple]:
    with sqlite3.connect(Workspace(forge.root).books) as database:
        return database.execute(query).fetchall()


def lost(forge: Forge) -> set[str]:
    """Requests that a client holds an acknowledgement for and that the books do not have at that price."""
    found = {f"{name} {cost}" for name, cost in rows(forge, "SELECT id, total_cost_nusd FROM requests")}
    return set(forge.acknowledged()) - found


def kill_loop(forge: Forge, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(kills):
        forge.kill_after("requests", chance.randrange(1, 40))
    assert lost(forge) == set()
    assert rows(forge, "PRAGMA integrity_check") == [("ok",)]
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
def test_two_hundred_kills_lose_no_acknowledged_request(forge: Forge) -> None:
    kill_loop(forge, kills=200, seed=2)


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
def test_a_hundred_killed_training_runs_are_billed(forge: Forge) -> None:
    training_loop(forge, kills=100, seed=4)
    with open_books(Workspace(forge.root)) as books:
        assert len(training_receipts(books)) == 100


def test_two_processes_write_side_by_side(forge: Forge) -> None:
    """Both finish, nobody starves, nothing is lost, and the file is whole."""
    for pid in [forge.start("accounts"), forge.start("accounts")]:
        assert forge.ask(f"wait {pid}") == "ended"
    wanted = {f"{who}-{i}" for who in (1, 2) for i in range(60)}
    assert {name for (name,) in rows(forge, "SELECT machine_name FROM rates")} == wanted
    assert set(forge.acknowledged()) == wanted
    assert rows(forge, "PRAGMA integrity_check") == [("ok",)]
