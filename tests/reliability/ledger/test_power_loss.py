"""Power loss, simulated: whatever part of the log reached the disk, the books are whole up to some commit.

The log is append only between checkpoints, so the disk after a loss holds a prefix of it, perhaps with a torn
end. Every prefix tried must hold all that had been acknowledged at its length, no half group, and balance.
"""

import random
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection

from tuition.books.books import Books, open_books
from tuition.books.sqlite import SqliteStore
from tuition.core.amount import Amount
from tuition.core.workspace import Workspace
from tuition.ledger.postings import post
from tuition.ledger.receipts import record_rate
from tuition.spec.machine import Machine

MACHINE = Machine("test", "cpu", 2, 1 << 34, 1e12, 1e10, 7.3, 31.7, 0.0837, False, 0.21, 1.3, 400.0)


def written(root: Path, count: int) -> tuple[Path, bytes, list[int]]:
    """Books before the writes, the log after them, and the log's length at each acknowledgement."""
    workspace, before = Workspace(root / "home"), root / "before.sqlite"
    with open_books(workspace) as books:
        rate_id = record_rate(books, MACHINE)
    shutil.copy(workspace.books, before)
    log, lengths = Path(f"{workspace.books}-wal"), []
    with Books(SqliteStore(workspace, checkpoint_bytes=1 << 40)) as books:
        for i in range(count):

            def write(connection: Connection, i: int = i) -> None:
                lines = [("inference", Amount(i + 1, i, i)), ("waste", Amount(1, 1, 1))]
                post(
                    connection,
                    "request",
                    f"r{i}",
                    rate_id,
                    lines,
                    method="modelled",
                    memo="x" * (i * 97 % 3_000),
                )

            books.write_now(write)
            lengths.append(log.stat().st_size)
        content = log.read_bytes()
    return before, content, lengths


def check(before: Path, log: bytes, folder: Path) -> int:
    """Open what the disk holds; returns how many transactions are there, in order and without a gap."""
    database = folder / "after.sqlite"
    shutil.copy(before, database)
    Path(f"{database}-wal").write_bytes(log)
    connection = sqlite3.connect(database)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        subjects = [row[0] for row in connection.execute("SELECT subject FROM transactions ORDER BY id")]
        assert subjects == [f"r{i}" for i in range(len(subjects))]
        per_transaction = "SELECT count(*), sum(wall_ns), sum(energy_uj), sum(cost_nusd) FROM entries"
        groups = connection.execute(per_transaction + " GROUP BY transaction_id").fetchall()
        assert groups == [(3, 0, 0, 0)] * len(subjects)
        return len(subjects)
    finally:
        connection.close()
        for path in folder.glob("after.sqlite*"):
            path.unlink()


def replay(root: Path, count: int, states: int) -> None:
    before, log, lengths = written(root, count)
    chance, began = random.Random(5), time.monotonic()
    for state in range(states):
        length = chance.choice(lengths) + chance.choice([0, 0, -1, 1, 24, 4_120, chance.randrange(5_000)])
        length = max(0, min(length, len(log)))
        kept = log[:length]
        if state % 2:  # a torn end: blocks after the last synced commit hold anything
            kept += chance.randbytes(chance.randrange(1, 9_000))
        acknowledged = sum(end <= length for end in lengths)
        assert check(before, kept, root) >= acknowledged
    print(f"D1 crash states={states} lost=0 half groups=0 seconds={time.monotonic() - began:.1f}")


def test_every_acknowledged_posting_survives_any_cut_of_the_log(
    tmp_path: Path,
) -> None:
    replay(tmp_path, count=40, states=150)


@pytest.mark.slow
def test_two_thousand_cuts_of_the_log(tmp_path: Path) -> None:
    replay(tmp_path, count=200, states=2_000)


def test_the_replay_finds_a_log_that_was_not_synced(tmp_path: Path) -> None:
    """The planted fault: an acknowledgement while the commit's last page is not on the disk yet."""
    before, log, lengths = written(tmp_path, count=5)
    assert check(before, log[: lengths[2] - 1], tmp_path) < 3
