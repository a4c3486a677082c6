"""A disk that fills up: what is committed is acknowledged, what is refused is not in the books.

`tmpfs` is a real small file system (where mounting is allowed); `limit` lets no file grow, on any system.
"""

import time
from pathlib import Path

import pytest
from sqlalchemy import select

from small_disk import LimitedFiles, SmallDisk, grow_log
from tuition.books import sqlite
from tuition.books.books import Books, open_books
from tuition.books.schema import requests
from tuition.core.errors import BooksError
from tuition.core.records import SequenceWork, StepRecord, StepTrace
from tuition.core.request_record import RequestRecord
from tuition.core.workspace import Workspace
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.meter import ModelledMeter
from tuition.ledger.periods import Periods
from tuition.ledger.receipts import record_rate, record_request
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.training import RunInfo, TrainingBill
from tuition.spec.machine import Machine
from tuition.spec.shape import ModelShape

MOST_STEPS = 1_000
"""A checkpoint that comes before the disk is full leaves a log that has room for many saves."""
SHAPE = ModelShape(
    vocab_size=100, hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_size=32,
    context_length=64,
)  # fmt: skip
MACHINE = Machine("test", "cpu", 2, 1 << 34, 1e12, 1e10, 7.3, 31.7, 0.0837, False, 0.21, 1.3, 400.0)


def with_a_long_log(disk: SmallDisk | LimitedFiles) -> Books:
    """Open books with some MiB in the database and a log just short of its next checkpoint."""
    workspace = Workspace(disk.folder / "home")
    log = Path(f"{workspace.books}-wal")
    with open_books(workspace) as books:
        grow_log(books, log, 3 << 20)
    books = open_books(workspace)
    grow_log(books, log, sqlite.CHECKPOINT_BYTES)
    return books


def row_of(account: EngineAccount, name: str, rate_id: int) -> RequestRecord:
    now = time.monotonic_ns()
    time.sleep(0.001)
    work = SequenceWork(name, "prefill", 5, 0, 1)
    account.add(StepTrace(now, time.monotonic_ns(), (work,)))
    cost = account.close(name)
    return RequestRecord(
        cost=cost, rate_id=rate_id, model="m", version=1, weights_digest=None, api_key_id=None,
        created_unix_ns=time.time_ns(), prompt_tokens=5, input_tokens=5, cached_tokens=0, generated_tokens=1,
        queue_ns=1, first_token_ns=2, total_ns=3, finish_reason="stop",
    )  # fmt: skip


def recorded(books: Books) -> set[str]:
    return set(books.read(lambda connection: connection.execute(select(requests.c.id)).scalars().all()))


def test_the_answer_to_a_request_and_the_books_agree(disk: SmallDisk | LimitedFiles) -> None:
    """The checkpoint that is due meets the full disk before the commits do."""
    with with_a_long_log(disk) as books:
        rate_id, account = record_rate(books, MACHINE), EngineAccount(SHAPE, MACHINE, ModelledMeter(MACHINE))
        rows = [row_of(account, f"r{i}", rate_id) for i in range(12)]
        disk.fill(leave=250_000)
        acknowledged, refused, said = set(), [], set()
        for row in rows:
            try:
                record_request(books, row).result()
                acknowledged.add(row.request_id)
            except BooksError as error:
                refused.append(row)
                said.add(str(error))
        assert acknowledged, "the first commits had room"
        assert refused, "the disk was never full"
        assert all(disk.says in text for text in said), said
        assert recorded(books) == acknowledged
        disk.empty()
        with Periods(books, account, rate_id, "m"):
            pass
        for row in rows:  # the client tries everything again, also what it was told is done
            record_request(books, row).result()
        reconciliation = reconcile(books)
        assert reconciliation.holds
        assert reconciliation.requests == sum((row.cost.total for row in rows[1:]), rows[0].cost.total)
        print(f"B10 acknowledged={len(acknowledged)} refused={len(refused)} lost=0 twice=0")


def test_training_is_billed_once_whatever_the_disk_refuses(disk: SmallDisk | LimitedFiles) -> None:
    with with_a_long_log(disk) as books:
        meter = ModelledMeter(MACHINE)
        with TrainingBill.open(books, meter, RunInfo("m")) as bill:
            refused = after = 0
            for step in range(1, MOST_STEPS):
                if step == 2:
                    disk.fill(leave=250_000)
                start = bill.meter.start()
                time.sleep(0.001)
                bill.add_step(StepRecord(step, 1.0, 1.0, 0.1, 100, 10**6, bill.meter.stop(start), 0.5))
                try:
                    bill.save()
                except BooksError:
                    refused += 1
                    if refused == 20:
                        disk.empty()
                after += refused >= 20
                if after == 10:
                    break
        assert refused, "the disk was never full"
        reconciliation = reconcile(books)
        assert reconciliation.holds
        assert reconciliation.training == bill.total


def test_a_full_disk_does_not_harm_closing_and_refuses_opening(disk: SmallDisk | LimitedFiles) -> None:
    """Closing folds the log in, which a full disk only postpones."""
    books, fresh = with_a_long_log(disk), Workspace(disk.folder / "new").create()
    rate_id = record_rate(books, MACHINE)
    disk.fill(leave=0)
    books.close()
    if isinstance(disk, LimitedFiles):
        disk.limit(1_000)
    with pytest.raises(BooksError, match=disk.says):
        open_books(fresh)
    disk.empty()
    for workspace in (fresh, Workspace(disk.folder / "home")):
        with open_books(workspace) as again:
            assert reconcile(again).holds
    with open_books(Workspace(disk.folder / "home")) as again:
        assert record_rate(again, MACHINE) == rate_id
