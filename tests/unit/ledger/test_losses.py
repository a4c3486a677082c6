"""A known loss can be accepted, once, with a reason; another loss, or a changed one, fails the check."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from tuition.books.journal import note_stored
from tuition.books.schema import acceptances, periods, runs
from tuition.core.errors import SettingsError
from tuition.core.records import StepRecord
from tuition.ledger.audit_journal import CHANGED
from tuition.ledger.losses import accept_losses
from tuition.ledger.meter import ModelledMeter
from tuition.ledger.process import process_identity
from tuition.ledger.training import RunInfo, TrainingBill
from unit.ledger.life import MS, Life, change, copy_of


@pytest.fixture(scope="session")
def ended() -> str:
    """The identity of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(child.pid)
    child.communicate(b"\n")
    return identity


@pytest.fixture
def killed(begin, ended: str) -> Callable[[], Life]:
    """An account with a closed period and one that was cut off, with a late receipt and an open request."""

    def killed(number: int = 0) -> Life:
        life = begin()
        life.period(number)
        life.step(f"late{number}", "lost")
        life.periods.write()
        life.charge(f"late{number}")
        mine = update(periods).where(periods.c.account == life.account.id, periods.c.status == "open")
        life.books.write_now(lambda c: c.execute(mine.values(process=ended)) and None)
        return life

    return killed


def test_a_loss_that_is_accepted_is_known(killed) -> None:
    life = killed()
    (loss,) = life.check().losses
    assert loss.loss is not None
    assert loss.loss.requests == ("lost",)
    assert loss.loss.late.wall_ns > 0
    accept_losses(life.books, [loss.loss.period_id], " power cut ")
    found = life.check()
    assert (found.holds, found.findings) == (True, ())
    (accepted,) = found.accepted
    assert (accepted.finding, accepted.why) == (loss, "power cut")


def test_another_loss_fails_again(killed) -> None:
    life = killed()
    accept_losses(life.books, (), "power cut")
    assert life.check().holds
    again = killed(1)
    found = again.check()
    assert not found.holds
    assert len(found.losses) == len(found.accepted) == 1
    accept_losses(life.books, (), "and again")
    assert [each.why for each in life.check().accepted] == ["power cut", "and again"]


def test_all_losses_are_accepted_at_once(killed) -> None:
    life, _ = killed(), killed(1)
    assert len(life.check().losses) == 2
    accept_losses(life.books, (), "power cut")
    assert (life.check().holds, len(life.check().accepted)) == (True, 2)


@pytest.mark.parametrize(
    "values",
    [{"running_ns": 5}, {"open_requests": "[]"}, {"posted_cost_nusd": periods.c.posted_cost_nusd - 1}],
)
def test_an_accepted_loss_that_changes_fails_again(killed, values: dict) -> None:
    life = killed()
    accept_losses(life.books, (), "power cut")
    change(life.books, update(periods).where(periods.c.status == "cut off").values(**values))
    found = life.check()
    assert [each.place for each in found.losses] == ["period 3 (bard)"]
    assert any("accepted another loss of period 3 (bard)" in each.says for each in found.faults)
    assert found.accepted == ()


def test_an_acceptance_of_a_period_that_lost_nothing(life: Life) -> None:
    row = {"created_unix_ns": 1, "period_id": 2, "why": "?", "running_ns": 0, "requests": "[]"}
    amounts = {"late_wall_ns": 0, "late_energy_uj": 0, "late_cost_nusd": 0}
    change(life.books, insert(acceptances).values(**row, **amounts))
    assert "acceptance 1" in {each.place for each in life.check().faults}
    assert "accepted a loss of period 2, which has none" in {each.says for each in life.check().faults}


def test_an_acceptance_cannot_be_changed_and_an_edit_is_found(killed) -> None:
    life = killed()
    accept_losses(life.books, (), "power cut")
    for edit in (update(acceptances).values(why="nothing happened"), delete(acceptances)):
        with pytest.raises(IntegrityError, match="append only"):
            life.books.write_now(lambda c, edit=edit: c.execute(edit) and None)
    change(life.books, update(acceptances).values(why="nothing happened"))
    assert ("acceptance 1", CHANGED) in {(each.place, each.says) for each in life.check().faults}


@pytest.mark.parametrize(
    ("chosen", "why", "says"),
    [
        ([3], "  ", "why: got '  ', wanted the reason"),
        ([1], "power cut", r"that is not accepted yet \(3\); period 1 is in the books and has no loss"),
        ([77], "power cut", r"\(3\); period 77 is not in the books"),
    ],
)
def test_what_cannot_be_accepted(killed, chosen: list[int], why: str, says: str) -> None:
    life = killed()
    with pytest.raises(SettingsError, match=says):
        accept_losses(life.books, chosen, why)
    accept_losses(life.books, [3], "power cut")
    with pytest.raises(
        SettingsError, match=r"\(there are none\); period 3 has a loss that is accepted already"
    ):
        accept_losses(life.books, [3], "power cut")
    assert len(life.books.read(lambda c: c.execute(select(acceptances)).all())) == 1


def test_a_fault_cannot_be_accepted(killed) -> None:
    life = killed()
    change(life.books, update(periods).where(periods.c.id == 1).values(num_lost=1))
    with pytest.raises(SettingsError, match="period 1 is in the books and has no loss"):
        accept_losses(life.books, [1], "power cut")


def test_a_run_that_was_killed(life: Life, machine, clock, ended: str) -> None:
    bill = TrainingBill.open(life.books, ModelledMeter(machine, clock), RunInfo("bard"), "bard-run")
    start = bill.meter.start()
    clock.sleep(10 * MS)
    bill.add_step(StepRecord(1, 2.5, 1.0, 0.1, 10, 7, bill.meter.stop(start), 1.0))
    bill.close("stopped")  # else it goes on saving, each second
    mine = copy_of(life, periods, periods.c.run_id == "bard-run")["id"]
    change(life.books, update(periods).where(periods.c.id == mine).values(process=ended, status="open"))
    change(life.books, update(runs).values(status="running"))
    life.books.write_now(lambda connection: note_stored(connection, runs, "bard-run"))
    assert [each.place for each in life.check().losses] == [f"period {mine} (bard-run)"]
    accept_losses(life.books, [mine], "out of memory")
    assert life.check().holds
