"""Programs that write into the books until somebody kills them: `<mode> <workspace> <log> <number>`.

They append what was acknowledged to their log with one write call per line: the client's truth, which
outlives the program.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from tuition.books.books import Books, open_books, open_store
from tuition.books.store import Store
from tuition.core.errors import BooksError, BusyError
from tuition.core.records import SequenceWork, StepRecord, StepTrace
from tuition.core.request_record import RequestRecord
from tuition.core.workspace import Workspace
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.meter import ModelledMeter
from tuition.ledger.periods import Periods
from tuition.ledger.receipts import record_rate, record_request
from tuition.ledger.training import RunInfo, TrainingBill
from tuition.spec.machine import Machine
from tuition.spec.shape import ModelShape

SHAPE = ModelShape(
    vocab_size=100, hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_size=32,
    context_length=64,
)  # fmt: skip
MACHINE = Machine("test", "cpu", 2, 1 << 34, 1e12, 1e10, 7.3, 31.7, 0.0837, False, 0.21, 1.3, 400.0)


def write_requests(root: Path, log: int, number: int, books: Books | None = None) -> None:
    """Serve made-up requests from four threads for ever; log each one whose row is acknowledged."""
    books = books or open_books(Workspace(root))
    account = EngineAccount(SHAPE, MACHINE, ModelledMeter(MACHINE))
    rate_id = record_rate(books, MACHINE)
    periods = Periods(books, account, rate_id, "m", period_s=0.2).start()
    busy = threading.Lock()

    def serve(thread: int) -> None:
        for i in range(1_000_000):
            name = f"{number}-{thread}-{i}"
            with busy:
                begin = time.monotonic_ns()
                work = (
                    SequenceWork(name, "prefill", 5, 0, 1),
                    SequenceWork(f"{name}-n", "decode", 1, 3, 1, 1),
                )
                account.add(StepTrace(begin, time.monotonic_ns(), work))
            rows = [_row(account, request, rate_id) for request in (name, f"{name}-n")]
            for row, future in [(row, record_request(books, row)) for row in rows]:
                future.result()
                os.write(log, f"{row.request_id} {row.cost.total.cost_nusd}\n".encode())
            if i % 7 == 0 and thread == 0:
                periods.write()

    for thread in range(4):
        threading.Thread(target=serve, args=(thread,)).start()


def _row(account: EngineAccount, name: str, rate_id: int) -> RequestRecord:
    cost = account.close(name)
    return RequestRecord(
        cost=cost, rate_id=rate_id, model="m", version=1, weights_digest=None, api_key_id=None,
        created_unix_ns=time.time_ns(), prompt_tokens=5, input_tokens=5, cached_tokens=0, generated_tokens=1,
        queue_ns=1, first_token_ns=2, total_ns=3, finish_reason="stop",
    )  # fmt: skip


class HastyStore:
    """The planted fault: a database that reports a commit before it has happened."""

    def __init__(self, store: Store) -> None:
        self.name, self.store = store.name, store
        self.read, self.maintain, self.close = store.read, store.maintain, store.close
        self.is_environmental, self.translate = store.is_environmental, store.translate

    def commit(self, run: Callable[[Connection], Any]) -> Any:
        done: Future[Any] = Future()

        def slowly(connection: Connection) -> None:
            done.set_result(run(connection))
            time.sleep(0.03)

        threading.Thread(target=self.store.commit, args=(slowly,)).start()
        return done.result()


def write_hastily(root: Path, log: int, number: int) -> None:
    """`write_requests` over a database that acknowledges inside the transaction."""
    write_requests(root, log, number, Books(HastyStore(open_store(Workspace(root)))))


def write_stubbornly(root: Path, log: int, number: int) -> None:
    """Try each row again, as it is, until it is acknowledged: the database may go away at any moment."""
    books = open_books(Workspace(root))
    account = EngineAccount(SHAPE, MACHINE, ModelledMeter(MACHINE))
    rate_id = record_rate(books, MACHINE)
    Periods(books, account, rate_id, "m").start()
    for i in range(1_000_000):
        begin, name = time.monotonic_ns(), f"{number}-{i}"
        account.add(StepTrace(begin, time.monotonic_ns(), (SequenceWork(name, "prefill", 5, 0, 1),)))
        row, is_written = _row(account, name, rate_id), False
        while not is_written:
            try:
                record_request(books, row).result()
                is_written = True
            except (BooksError, BusyError):
                time.sleep(0.02)
        os.write(log, f"{name} {row.cost.total.cost_nusd}\n".encode())


def write_training(root: Path, log: int, number: int) -> None:
    """Train for ever; log each step whose save is acknowledged."""
    books, meter = open_books(Workspace(root)), ModelledMeter(MACHINE)
    bill = TrainingBill.open(books, meter, RunInfo("m"), run_id=f"run-{number}")
    step = 0
    while True:
        start = bill.meter.start()
        time.sleep(0.001)
        step += 1
        bill.add_step(StepRecord(step, 1.0, 1.0, 0.1, 100, 10**6, bill.meter.stop(start), 0.5))
        if step % 3 == 0:
            with bill.overhead("checkpoint"):
                bill.save()
            os.write(log, f"{step}\n".encode())


def write_accounts(root: Path, log: int, number: int) -> None:
    """Write sixty rates beside other processes, then close."""
    with open_books(Workspace(root)) as books:
        for i in range(60):
            machine = Machine(f"{number}-{i}", "cpu", 2, 1, 1.0, 1.0, 1.0, 1.0, 1.0, True, 0.0, 1.0, 0.0)
            record_rate(books, machine)
            os.write(log, f"{machine.name}\n".encode())


MODES = {
    "requests": write_requests,
    "hasty": write_hastily,
    "stubborn": write_stubbornly,
    "training": write_training,
    "accounts": write_accounts,
}


def main() -> None:
    mode, root, log, number = sys.argv[1:]
    MODES[mode](Path(root), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), int(number))
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
