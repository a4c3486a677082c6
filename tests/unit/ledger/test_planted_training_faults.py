"""Each fault planted in the books of a training run makes the check fail; without it they hold."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, update

from tuition.books.books import Books, open_books
from tuition.books.schema import run_costs
from tuition.core.records import StepRecord
from tuition.core.workspace import Workspace
from tuition.ledger.meter import ModelledMeter
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.training import RunInfo, TrainingBill

MS = 1_000_000


def taught(books: Books, machine, clock, *, lost: bool = False, twice: bool = False) -> str:
    with TrainingBill.open(books, ModelledMeter(machine, clock), RunInfo("bard"), run_id="bard-run") as bill:
        with bill.overhead("data"):
            clock.sleep(50 * MS)
        for number in (1, 2, 3):
            start = bill.meter.start()
            clock.sleep(10 * MS)
            record = StepRecord(number, 2.5, 1.0, 0.1, 10, 10, bill.meter.stop(start), number / 3)
            for _ in range(0 if lost and number == 2 else 2 if twice and number == 2 else 1):
                bill.add_step(record)
            clock.sleep(MS)
    return "period 1 (bard-run)"


def test_a_run_without_a_fault_holds(books: Books, machine, clock) -> None:
    taught(books, machine, clock)
    assert reconcile(books).findings == ()


@pytest.mark.parametrize("fault", ["lost", "twice"])
def test_a_training_step_that_is_lost_or_billed_twice(books: Books, machine, clock, fault: str) -> None:
    place = taught(books, machine, clock, **{fault: True})
    found = {each.place for each in reconcile(books).faults}
    assert {place, "run bard-run"} <= found


def test_a_cost_of_a_run_that_was_changed(books: Books, machine, clock) -> None:
    taught(books, machine, clock)
    one = (run_costs.c.kind == "data") & (run_costs.c.run_id == "bard-run")
    more = update(run_costs).where(one).values(cost_nusd=run_costs.c.cost_nusd + 1)
    books.write_now(lambda connection: connection.execute(more) and None)
    assert "run bard-run" in {each.place for each in reconcile(books).faults}


def test_costs_of_a_run_that_were_moved_between_steps_and_the_rest(books: Books, machine, clock) -> None:
    taught(books, machine, clock)
    mine = run_costs.c.run_id == "bard-run"

    def move(connection: Connection) -> None:
        for kind, more in (("step", 7), ("data", -7)):
            one = update(run_costs).where(mine, run_costs.c.kind == kind)
            connection.execute(one.values(wall_ns=run_costs.c.wall_ns + more))

    books.write_now(move)
    assert {each.place for each in reconcile(books).faults} == {"run bard-run"}


@pytest.mark.parametrize(
    "edit",
    ["DELETE FROM runs", "DROP TRIGGER rates_refuse_delete; DELETE FROM rates", "DELETE FROM accounts"],
)
def test_a_row_that_others_name_is_missing(tmp_path: Path, machine, clock, monkeypatch, edit: str) -> None:
    """SQLite lets a program delete it that has not asked for foreign keys; PostgreSQL refuses."""
    monkeypatch.delenv("TUITION_DATABASE_URL", raising=False)
    workspace = Workspace(tmp_path / "rows")
    with open_books(workspace) as books:
        taught(books, machine, clock)
    with closing(sqlite3.connect(workspace.root / "books.sqlite", isolation_level=None)) as other:
        other.executescript(edit)
    with open_books(workspace) as books:
        assert any("which is missing" in each.says for each in reconcile(books).faults)
