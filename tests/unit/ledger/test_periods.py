"""Periods between an account and the books: kept up to date, followed by the next, cut off by a kill."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from tuition.books.books import Books
from tuition.books.schema import periods, transactions
from tuition.core.amount import NOTHING
from tuition.core.errors import BusyError
from tuition.core.records import SequenceWork, StepTrace
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.meter import ModelledMeter
from tuition.ledger.periods import Periods, subject_of
from tuition.ledger.process import process_identity
from tuition.ledger.receipts import record_rate
from tuition.ledger.reconciliation import reconcile

MS = 1_000_000


@pytest.fixture
def account(shape, machine, clock) -> EngineAccount:
    return EngineAccount(shape, machine, ModelledMeter(machine, clock), clock=clock)


@pytest.fixture
def book(books: Books, account, machine) -> Periods:
    return Periods(books, account, record_rate(books, machine), "bard", beat_s=3_600)


@pytest.fixture
def rows(books: Books) -> Callable[[], list]:
    query = select(periods).order_by(periods.c.id)
    return lambda: books.read(lambda connection: connection.execute(query).mappings().all())


def test_a_period_that_the_books_refuse_goes_on(books: Books, book, clock, monkeypatch) -> None:
    """What was not written is nowhere else: were it dropped, idle time would be missing."""
    with monkeypatch.context() as patch:

        def refuse(fn: object) -> None:
            raise BusyError("locked", retry_after_s=1)

        patch.setattr(books, "write_now", refuse)
        clock.sleep(3_000)
        with pytest.raises(BusyError):
            book.write()
    clock.sleep(4_000)
    book.close()
    found = reconcile(books)
    assert found.holds
    assert found.idle.wall_ns == 7_000


def test_an_open_period_is_brought_up_to_date_by_itself(books: Books, account, machine, clock, rows) -> None:
    book = Periods(books, account, record_rate(books, machine), "bard", beat_s=0.01).start()
    (row,) = rows()
    assert (row["status"], row["meter_wall_ns"]) == ("open", 0)
    clock.sleep(5 * MS)
    deadline = time.monotonic() + 20
    while rows()[0]["meter_wall_ns"] < 5 * MS and time.monotonic() < deadline:
        time.sleep(0.01)
    assert rows()[0]["idle_wall_ns"] == 5 * MS
    assert reconcile(books).holds, "a period of a process that runs is no loss"
    book.close()
    book.close()
    (row,) = rows()
    assert row["status"] == "closed"


def test_periods_follow_one_another_and_each_is_posted_once(
    books: Books, account, machine, clock, rows
) -> None:
    book = Periods(books, account, record_rate(books, machine), "bard", beat_s=3_600, period_s=0.0)
    for _ in range(3):
        clock.sleep(7 * MS)
        book.write()
    book.close()
    found = rows()
    assert [row["number"] for row in found] == [0, 1, 2, 3]
    assert [row["status"] for row in found] == ["closed"] * 4
    ends = [(row["start_ns"], row["end_ns"]) for row in found]
    assert ends == [(0, 7 * MS), (7 * MS, 14 * MS), (14 * MS, 21 * MS), (21 * MS, 21 * MS)]
    subjects = books.read(lambda c: c.execute(select(transactions.c.subject)).scalars().all())
    assert sorted(subjects) == [subject_of(row["id"]) for row in found[:3]], "nothing to post in the last"
    assert reconcile(books).holds


def test_a_period_begins_with_what_is_in_flight(books: Books, account, machine, clock, rows) -> None:
    """Killed right after the beginning of a period, its process has left the requests of the one before."""
    book = Periods(books, account, record_rate(books, machine), "bard", beat_s=3_600, period_s=0.0)
    begun = clock.now
    clock.sleep(3 * MS)
    account.add(StepTrace(begun, clock.now, (SequenceWork("r", "decode", 1, 3, 1),)))
    book.write()
    first, second = rows()
    assert (first["in_flight_wall_ns"], second["in_flight_wall_ns"]) == (3 * MS, 3 * MS)
    assert json.loads(second["open_requests"]) == ["r"]
    assert reconcile(books).faults == ()


def test_a_period_of_a_process_that_was_killed_is_cut_off_and_posted_by_the_next(
    books: Books, book, account, clock, rows, machine, shape
) -> None:
    """It holds all but the last beat, and names what was in flight."""
    clock.sleep(9 * MS)
    account.add(StepTrace(clock.now - 3 * MS, clock.now, (SequenceWork("lost", "decode", 1, 3, 1),)))
    book.write()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(child.pid)
    books.write_now(lambda c: c.execute(update(periods).values(process=identity)) and None)
    assert reconcile(books).holds
    child.communicate(b"\n")
    found = reconcile(books)
    (loss,) = found.losses
    assert (found.holds, found.faults) == (False, ())
    assert loss.place == f"period {rows()[0]['id']} (bard)"
    assert "up to 1.0 s" in loss.says
    assert "lost" in loss.says
    assert found.accounts == {}
    following = EngineAccount(shape, machine, ModelledMeter(machine, clock), clock=clock)
    with Periods(books, following, record_rate(books, machine), "bard", beat_s=3_600):
        assert [row["status"] for row in rows()] == ["cut off", "open"]
    found = reconcile(books)
    assert found.faults == ()
    assert len(found.losses) == 1
    assert found.accounts["idle"].wall_ns == 6 * MS, "what had been written is posted"


def test_while_a_step_runs_a_period_ends_before_it(shape, machine) -> None:
    """The engine marks its own steps: the rest of a running one is in no figure, and is said."""
    account = EngineAccount(shape, machine, ModelledMeter(machine))
    marks = account.engine_marks()
    begun = time.monotonic_ns()
    marks.begin(begun)
    time.sleep(0.02)
    totals = account.observe(wait_s=0.01)
    assert totals.running_ns > 15 * MS
    assert totals.residual == NOTHING
    ended = time.monotonic_ns()
    marks.end(begun, ended)
    account.add(StepTrace(begun, ended, (SequenceWork("r", "decode", 1, 3, 1),)))
    whole = account.observe()
    assert (whole.busy_ns, whole.worked_ns) == (ended - begun, ended - begun)
    assert (whole.running_ns, whole.num_lost, whole.residual) == (0, 0, NOTHING)


def test_a_trace_on_its_way_is_not_lost_because_the_process_stood_still(shape, machine) -> None:
    """After a stop of the whole process the time to wait has passed, and no thread has run in it."""
    account = EngineAccount(shape, machine, ModelledMeter(machine))
    marks = account.engine_marks()
    begun = time.monotonic_ns()
    marks.begin(begun)
    ended = time.monotonic_ns()
    marks.end(begun, ended)
    trace = StepTrace(begun, ended, (SequenceWork("r", "decode", 1, 3, 1),))
    telling = threading.Timer(0.01, account.add, (trace,))
    telling.start()
    totals = account.observe(wait_s=0.0)
    telling.join()
    assert (totals.num_lost, totals.residual) == (0, NOTHING)
    assert account.observe().num_lost == 0


def test_a_mark_that_is_wanted_comes_with_the_end_of_the_step(shape, machine) -> None:
    """Under load no moment is without a step; the engine's thread takes the mark between two of them."""
    account = EngineAccount(shape, machine, ModelledMeter(machine))
    marks, until = account.engine_marks(), threading.Event()

    def engine() -> None:
        begun = time.monotonic_ns()
        while not until.is_set():
            marks.begin(begun)
            time.sleep(0.004)
            ended = time.monotonic_ns()
            marks.end(begun, ended)
            account.add(StepTrace(begun, ended, (SequenceWork("r", "decode", 1, 3, 1),)))
            begun = ended

    thread = threading.Thread(target=engine)
    thread.start()
    found = [account.drain_period() for _ in range(20)]
    until.set()
    thread.join()
    found.append(account.drain_period())
    assert all(totals.residual == NOTHING for totals in found)
    assert all(totals.busy_ns == totals.worked_ns for totals in found)
    assert sum(totals.num_lost for totals in found) == 0
    assert [a.end_ns for a in found[:-1]] == [b.start_ns for b in found[1:]]
    assert sum(totals.worked_ns > 0 for totals in found) > 15


def test_loading_is_overhead_also_while_it_goes_on(books: Books, book, account, clock, rows) -> None:
    with account.loading():
        clock.sleep(5 * MS)
        book.write()
        assert rows()[0]["overhead_wall_ns"] == 5 * MS
        clock.sleep(2 * MS)
    clock.sleep(MS)
    book.close()
    found = reconcile(books)
    assert (found.overhead.wall_ns, found.idle.wall_ns) == (7 * MS, MS)
    assert found.holds


def test_a_period_names_its_process_and_the_witness_of_a_real_clock(
    books: Books, shape, machine, rows
) -> None:
    account = EngineAccount(shape, machine, ModelledMeter(machine))
    with Periods(books, account, record_rate(books, machine), "bard") as book:
        time.sleep(0.01)
        book.write()
    (row,) = rows()
    assert row["process"] == process_identity(os.getpid())
    assert abs(row["witness_ns"] - row["meter_wall_ns"]) < 50 * MS
    assert row["cpu_ns"] >= 0
    assert json.loads(row["open_requests"]) == []
