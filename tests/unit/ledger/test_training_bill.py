"""The bill of a run: complete while it runs, after it was stopped, killed, resumed, or could not be saved."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest
from sqlalchemy import func, select, update

from tuition.books.books import Books
from tuition.books.schema import runs, transactions
from tuition.core.amount import NOTHING
from tuition.core.errors import BooksError, BusyError, NotFoundError
from tuition.core.records import StepRecord
from tuition.ledger import periods, training
from tuition.ledger.meter import CounterMeter, ModelledMeter
from tuition.ledger.process import has_ended, process_identity
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.sheets import TrainingReceipt
from tuition.ledger.statements import PROCESS_ENDED, training_receipt, training_receipts
from tuition.ledger.training import RunInfo, TrainingBill

MS = 1_000_000


@pytest.fixture
def meter(machine, clock) -> ModelledMeter:
    return ModelledMeter(machine, clock)


@pytest.fixture
def step(clock) -> Callable[[TrainingBill, int], None]:
    def take(bill: TrainingBill, number: int) -> None:
        start = bill.meter.start()
        clock.sleep(10 * MS)
        window = bill.meter.stop(start)
        bill.add_step(StepRecord(number, 2.5, 1.0, 0.1, 1_000, 10**9, window, number / 10))

    return take


def test_the_whole_time_of_a_run_is_billed(books: Books, meter, clock, step) -> None:
    """Steps, named overhead, and what no window covers; the machine gave exactly that."""
    with TrainingBill.open(books, meter, RunInfo("bard", num_parameters=7)) as bill:
        with bill.overhead("data"):
            clock.sleep(50 * MS)
        for number in (1, 2, 3):
            step(bill, number)
            clock.sleep(2 * MS)
        with bill.overhead("checkpoint"):
            bill.save()
            clock.sleep(5 * MS)
    receipt = training_receipt(books, bill.run_id)
    assert {kind: amount.wall_ns for kind, amount in receipt.parts.items()} == {
        "data": 50 * MS, "step": 30 * MS, "checkpoint": 5 * MS, "other": 6 * MS,
    }  # fmt: skip
    assert receipt.total == bill.total
    assert receipt.goodput == pytest.approx(30 / 91)
    assert (receipt.status, receipt.num_steps, receipt.num_tokens, receipt.flops) == (
        "finished",
        3,
        3_000,
        3 * 10**9,
    )
    assert (receipt.num_parameters, receipt.last_loss, receipt.energy_method) == (7, 2.5, "modelled")
    reconciliation = reconcile(books)
    assert reconciliation.holds
    assert reconciliation.training == receipt.total
    assert reconciliation.accounts["training"] == receipt.parts["step"]


def test_a_save_is_durable_while_the_run_goes_on(books: Books, meter, step) -> None:
    bill = TrainingBill.open(books, meter, RunInfo("bard"))
    assert training_receipt(books, bill.run_id).status == "running"
    step(bill, 1)
    bill.save()
    step(bill, 2)
    receipt = training_receipt(books, bill.run_id)
    assert (receipt.status, receipt.num_steps) == ("running", 1)
    assert receipt.parts["step"].wall_ns == 10 * MS


def test_the_same_state_saved_twice_is_posted_once(books: Books, meter, step) -> None:
    """A save whose answer was lost may be written again."""
    bill = TrainingBill.open(books, meter, RunInfo("bard"))
    step(bill, 1)

    def num_postings() -> int:
        query = select(func.count()).where(transactions.c.subject == bill.run_id)
        return books.read(lambda connection: connection.execute(query).scalar_one())

    bill.save()
    before, posted = reconcile(books), num_postings()
    bill.save()
    assert (num_postings(), reconcile(books).training) == (posted, before.training)
    step(bill, 2)
    bill.save()
    assert num_postings() == posted + 1
    bill.close("finished")
    assert reconcile(books).holds


def test_a_run_saves_itself_now_and_then(
    books: Books, meter, clock, step, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every phase: a long preparation that is killed is billed as well."""
    monkeypatch.setattr(training, "SAVE_EVERY_S", 0.01)
    bill = TrainingBill.open(books, meter, RunInfo("bard"))

    def saved(what: Callable[[TrainingReceipt], int], least: int) -> bool:
        deadline = time.monotonic() + 10
        while what(training_receipt(books, bill.run_id)) < least and time.monotonic() < deadline:
            time.sleep(0.01)
        return what(training_receipt(books, bill.run_id)) >= least

    with bill.overhead("data"):
        clock.sleep(70 * MS)
        assert saved(lambda receipt: receipt.total.wall_ns, 70 * MS)
    step(bill, 1)
    assert saved(lambda receipt: receipt.num_steps, 1)
    bill.close("finished")
    receipt = training_receipt(books, bill.run_id)
    assert (receipt.parts["data"].wall_ns, receipt.total.wall_ns) == (70 * MS, 80 * MS)
    assert reconcile(books).holds


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (KeyboardInterrupt(), "stopped", "Ctrl-C"),
        (ValueError("loss is NaN"), "failed", "ValueError: loss is NaN"),
    ],
)
def test_a_run_that_does_not_finish_is_billed_too(books: Books, meter, step, error, status, reason) -> None:
    bill = TrainingBill.open(books, meter, RunInfo("bard"))

    def run() -> None:
        with bill:
            step(bill, 1)
            raise error

    with pytest.raises(type(error)):
        run()
    receipt = training_receipt(books, bill.run_id)
    assert (receipt.status, receipt.reason) == (status, reason)
    assert receipt.total.cost_nusd > 0


def test_closing_twice_charges_once_and_nothing_after(books: Books, meter, clock, step) -> None:
    bill = TrainingBill.open(books, meter, RunInfo("bard"))
    step(bill, 1)
    bill.close("finished")
    clock.sleep(10**9)
    bill.close("failed")
    receipt = training_receipt(books, bill.run_id)
    assert (receipt.status, receipt.total) == ("finished", bill.total)
    assert receipt.total.wall_ns == 10 * MS


def test_a_resumed_run_keeps_its_costs_and_counts_what_is_done_again(
    books: Books, meter, clock, step
) -> None:
    first = TrainingBill.open(books, meter, RunInfo("bard"))
    for number in (1, 2, 3, 4):
        step(first, number)
    first.save()  # and then it is killed; its last checkpoint was at step 2
    clock.sleep(10**12)
    with TrainingBill.resume(books, meter, first.run_id) as second:
        for number in (3, 4, 5):
            step(second, number)
    receipt = training_receipt(books, first.run_id)
    assert (receipt.num_steps, receipt.num_tokens, receipt.redone_tokens) == (5, 7_000, 2_000)
    assert receipt.parts["step"].wall_ns == 70 * MS
    assert receipt.total.wall_ns == 70 * MS  # the time between the two processes is nobody's
    assert (receipt.num_resumes, receipt.status) == (1, "finished")
    assert reconcile(books).holds


def test_costs_and_counts_of_a_checkpoint_that_is_ahead_of_the_books(
    books: Books, meter, clock, step, monkeypatch
) -> None:
    """Killed between the checkpoint and the save of the bill: both come back, once, or neither."""
    first = TrainingBill.open(books, meter, RunInfo("bard"))
    step(first, 1)
    first.save()
    clock.sleep(3 * MS)
    step(first, 2)
    checkpoint = json.loads(json.dumps(first.record()))
    step(first, 3)  # in no save and in no checkpoint
    monkeypatch.setattr(periods, "has_ended", lambda *_: True)
    for recovers in (False, True, True):  # each process is killed before a checkpoint of its own
        bill = TrainingBill.resume(books, meter, first.run_id)
        with bill.overhead("load"):
            clock.sleep(7 * MS)
        bill.save()
        if recovers:
            bill.recover(checkpoint)
            bill.save()
    receipt = training_receipt(books, first.run_id)
    assert (receipt.num_steps, receipt.num_tokens, receipt.redone_tokens) == (2, 2_000, 0)
    assert {kind: amount.wall_ns for kind, amount in receipt.parts.items()} == {
        "step": 20 * MS, "other": 3 * MS, "load": 21 * MS,
    }  # fmt: skip
    assert reconcile(books).faults == ()
    assert reconcile(books).accounts["training"] == receipt.parts["step"]


def test_a_checkpoint_with_counts_alone_changes_no_count(books: Books, meter) -> None:
    """As it was written before checkpoints carried costs: what nobody paid for is not counted."""
    with TrainingBill.open(books, meter, RunInfo("bard")) as bill:
        bill.recover({"num_steps": 9, "num_tokens": 9_000, "redone_tokens": 0, "progress": 0.9})
    assert training_receipt(books, bill.run_id).num_tokens == 0


def test_an_unknown_run_cannot_be_resumed(books: Books, meter) -> None:
    with pytest.raises(NotFoundError, match="no run named"):
        TrainingBill.resume(books, meter, "bard-1")


def test_a_run_that_goes_on_elsewhere_cannot_be_resumed(books: Books, meter) -> None:
    bill = TrainingBill.open(books, meter, RunInfo("bard"))
    parent = process_identity(os.getppid())
    books.write_now(lambda c: c.execute(update(runs).values(process=parent)) and None)
    with pytest.raises(BusyError, match="another process"):
        TrainingBill.resume(books, meter, bill.run_id)


def test_what_a_failed_save_held_goes_into_the_next(books: Books, meter, step, monkeypatch) -> None:
    bill = TrainingBill.open(books, meter, RunInfo("bard"))
    step(bill, 1)

    def fail(*_: object) -> None:
        raise BooksError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(training, "write_run", fail)
        with pytest.raises(BooksError):
            bill.save()
    step(bill, 2)
    bill.close("finished")
    receipt = training_receipt(books, bill.run_id)
    assert receipt.parts["step"].wall_ns == 20 * MS
    assert reconcile(books).holds
    assert bill.problem is None


def test_a_measured_run_is_billed_what_its_counter_says(books: Books, machine, clock) -> None:
    meter = CounterMeter(machine, "rapl", lambda: clock.now // 20, clock)
    begun = clock.now
    with TrainingBill.open(books, meter, RunInfo("bard")) as bill:
        for number in (1, 2):
            start = bill.meter.start()
            clock.sleep(7 * MS)
            bill.add_step(StepRecord(number, 1.0, 1.0, 0.1, 10, 10, bill.meter.stop(start), 0.1))
            clock.sleep(MS)
    receipt = training_receipt(books, bill.run_id)
    assert receipt.total.energy_uj == (clock.now - begun) // 20
    assert receipt.energy_method == "rapl"


def test_what_becomes_known_later_is_written_with_the_next_save(books: Books, meter) -> None:
    bill = TrainingBill.open(books, meter, RunInfo("bard"))
    bill.describe(num_parameters=12, corpus_digest="ab" * 32)
    bill.save()
    assert training_receipt(books, "bard").num_parameters == 12


def test_a_run_whose_process_is_gone_is_shown_as_stopped(books: Books, meter, step) -> None:
    bill = TrainingBill.open(books, meter, RunInfo("bard"))
    step(bill, 1)
    bill.save()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(child.pid)
    books.write_now(lambda c: c.execute(update(runs).values(process=identity)) and None)
    assert training_receipt(books, bill.run_id).status == "running"
    child.communicate(b"\n")
    receipt = training_receipt(books, bill.run_id)
    assert (receipt.status, receipt.reason) == ("stopped", PROCESS_ENDED)
    assert receipt.total.cost_nusd > 0


def test_another_process_with_the_same_number_is_another_process() -> None:
    own = process_identity()
    assert not has_ended(own, 0)
    host, boot, namespace, pid, started = own.split("|")
    assert int(pid) == os.getpid()
    assert has_ended("|".join((host, boot, namespace, pid, "t1")), 0)
    assert has_ended("|".join((host, "another boot", namespace, pid, started)), 0)
    unused = max(psutil.pids()) + 100_000
    assert has_ended("|".join((host, boot, namespace, str(unused), started)), 0)


def test_a_clock_that_is_set_ends_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's time of boot moves with the clock, and with it the time of day of a process's start."""
    own = process_identity()
    host, boot, namespace, pid, _ = own.split("|")
    old_form = "|".join((host, boot, namespace, pid, f"{psutil.Process().create_time():.2f}"))
    create_time = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: create_time(process) + 37)
    assert process_identity() == own
    assert not has_ended(own, 0)
    assert not has_ended(old_form, 0), "as books from before hold it"


def test_a_run_on_another_host_counts_as_running_until_it_is_silent_for_long() -> None:
    elsewhere = "other-host|boot|pid:[1]|77|1.00"
    now = training.time.time_ns()
    assert not has_ended(elsewhere, now)
    assert has_ended(elsewhere, now - 3_600 * 10**9)


def test_the_newest_run_of_a_model_is_found_by_its_name(books: Books, meter) -> None:
    for number in (1, 2):
        with TrainingBill.open(books, meter, RunInfo("bard"), run_id=f"bard-{number}"):
            pass
    assert training_receipt(books, "bard").run_id == "bard-2"
    assert training_receipt(books, "bard-1").run_id == "bard-1"
    assert [receipt.run_id for receipt in training_receipts(books, "bard")] == ["bard-1", "bard-2"]
    assert training_receipts(books, "other") == ()
    assert reconcile(books).training == NOTHING
