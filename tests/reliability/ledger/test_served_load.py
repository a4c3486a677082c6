"""A served load with joins, cancels, preemptions and kills: meter and shares never differ.

Quick: a few lives of a second or two. Full: ten minutes.
"""

import random
import signal
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select

from forge import Forge
from tuition.books.books import Books, open_books
from tuition.books.schema import periods, requests
from tuition.core.amount import NOTHING
from tuition.core.workspace import Workspace
from tuition.ledger.reconciliation import reconcile

LOAD = "from reliability.ledger import served_load; served_load.main()"


def life(forge: Forge, root: Path, seed: int, seconds: float, *, kill: bool) -> int:
    """One process under load; returns its preemptions, where it ended in order."""
    process = forge.start(LOAD, [str(root), str(seed)])
    before, deadline = num_requests(root), time.monotonic() + 60
    while num_requests(root) <= before:
        assert time.monotonic() < deadline, "the load makes no progress"
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(seconds)
    if kill:
        process.kill()
    else:
        process.terminate()
    out, errors = process.communicate(60)
    process.close()
    assert process.returncode == (-signal.SIGKILL if kill else 0), errors
    return 0 if kill else int(out)


def num_requests(root: Path) -> int:
    with open_books(Workspace(root)) as books:
        return books.read(lambda c: c.execute(select(func.count()).select_from(requests)).scalar()) or 0


def ends(books: Books) -> dict[str, int]:
    query = select(requests.c.finish_reason, func.count()).group_by(requests.c.finish_reason)
    return dict(books.read(lambda connection: connection.execute(query).all()))


def serve(forge: Forge, root: Path, lives: int, seconds: float, seed: int) -> None:
    chance, kills, preemptions = random.Random(seed), 0, 0
    for number in range(1, lives + 1):
        kill = number % 3 == 0
        kills += kill
        preemptions += life(forge, root, seed + number, seconds * chance.uniform(0.7, 1.3), kill=kill)
    with open_books(Workspace(root)) as books:
        found = reconcile(books)
        assert found.faults == ()
        assert found.residual == NOTHING, "in ns, uJ and nUSD, against the independent window"
        assert len(found.losses) == kills
        assert found.holds == (kills == 0)
        assert found.witnessed.busy_ns > 0
        assert abs(found.witnessed.meter_ns - found.witnessed.witness_ns) < 1e9
        count = books.read(lambda c: c.execute(select(func.count()).select_from(periods)).scalar())
        reasons = ends(books)
        assert min(reasons["cancelled"], reasons["length"]) > 10
        assert found.attributed.wall_ns > found.meter.wall_ns // 10
    assert preemptions > 10
    print(
        f"served load: {found.meter.seconds:.0f} s, {sum(reasons.values())} requests {reasons}, "
        f"{count} periods, {preemptions} preemptions, {kills} kills, residual 0 ns 0 uJ 0 nUSD"
    )


def test_a_served_load_leaves_no_residual(forge: Forge, tmp_path: Path) -> None:
    serve(forge, tmp_path / "home", lives=3, seconds=1.5, seed=10)


@pytest.mark.slow
@pytest.mark.timeout(1_500)
def test_ten_minutes_of_served_load_leave_no_residual(forge: Forge, tmp_path: Path) -> None:
    serve(forge, tmp_path / "home", lives=24, seconds=25, seed=1_000)
