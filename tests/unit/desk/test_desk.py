"""A request is shown after its row is on disk, whoever computed it, and the books agree with the meter."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tuition.books.books import Books, open_books
from tuition.core.errors import BooksError
from tuition.core.records import SequenceWork, StepTrace
from tuition.core.workspace import Workspace
from tuition.desk.desk import Bill, Desk, ModelIdentity
from tuition.engine.request import Completion, Timing, TokenEvent
from tuition.ledger.account import Account
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.meter import open_meter
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.reported import ReportedAccount
from tuition.ledger.statements import of_model, request_receipts
from tuition.spec.machine import detect_machine
from tuition.spec.shape import ModelShape

SHAPE = ModelShape(64, 32, 1, 1, 1, 32, 48, 32)


@pytest.fixture
def books(tmp_path: Path):
    with open_books(Workspace(tmp_path / "home").create()) as opened:
        yield opened


def traced() -> EngineAccount:
    machine = detect_machine()
    return EngineAccount(SHAPE, machine, open_meter(machine))


def reported() -> ReportedAccount:
    machine = detect_machine()
    return ReportedAccount(machine, open_meter(machine))


def work(account: Account, request_id: str) -> None:
    """Some machine time for a request, as each kind of account is told of it."""
    if isinstance(account, ReportedAccount):
        account.begin(request_id)
        time.sleep(0.002)
        account.end(request_id, prompt_tokens=5, cached_tokens=2, generated_tokens=3)
    elif isinstance(account, EngineAccount):
        start = time.monotonic_ns()
        time.sleep(0.002)
        account.add(StepTrace(start, time.monotonic_ns(), (SequenceWork(request_id, "prefill", 3, 0, 1),)))


def end_of(request_id: str) -> TokenEvent:
    now = time.monotonic_ns()
    timing = Timing(now - 3_000_000, now - 2_000_000, now - 1_000_000, now)
    return TokenEvent(
        request_id,
        (1,),
        "a",
        finish_reason="stop",
        num_prompt_tokens=5,
        num_cached_tokens=2,
        num_generated=3,
        timing=timing,
    )


@pytest.mark.parametrize("account_of", [traced, reported])
def test_a_settled_request_is_on_disk_and_the_books_agree(
    books: Books, account_of: Callable[[], Account]
) -> None:
    account = account_of()
    with Desk(books, account, ModelIdentity("tiny", 4)) as desk:
        desk.serves(lambda: "f" * 64)
        work(account, "r1")
        cost = desk.settle(end_of("r1"))
        (receipt,) = request_receipts(books, *of_model("tiny"), limit=2)
        assert (receipt.request_id, receipt.total, receipt.weights_digest) == ("r1", cost.total, "f" * 64)
        assert (receipt.prompt_tokens, receipt.cached_tokens, receipt.generated_tokens) == (5, 2, 3)
        assert cost.total.wall_ns > 1_000_000
        assert desk.spent.num_tokens == 6
        assert desk.spent.total == cost.total
    assert reconcile(books).holds


def test_a_completion_settles_as_its_last_event_does(books: Books) -> None:
    account = traced()
    with Desk(books, account, ModelIdentity("tiny", None)) as desk:
        work(account, "r1")
        event = end_of("r1")
        desk.settle(Completion("r1", "a", (1,), "stop", 5, 2, 3, timing=event.timing))
    (receipt,) = request_receipts(books, *of_model("tiny"), limit=2)
    assert (receipt.prompt_tokens, receipt.generated_tokens, receipt.total_ns) == (5, 3, 3_000_000)


def test_further_replies_to_a_prompt_count_it_once(books: Books) -> None:
    account = reported()
    with Desk(books, account, ModelIdentity("tiny", 1)) as desk:
        bills = []
        for name, sent in (("r-0", 5), ("r-1", 0)):
            work(account, name)
            bills.append(asyncio.run(desk.settle_soon(end_of(name), prompt_tokens=sent, timeout_s=30)))
        total = Bill.total(bills)
    receipts = request_receipts(books, *of_model("tiny"), limit=3)
    assert sorted(receipt.prompt_tokens for receipt in receipts) == [0, 5]
    assert total.cost_nusd == sum(receipt.total.cost_nusd for receipt in receipts)


def test_an_error_means_that_no_row_is_there_nor_comes(books: Books) -> None:
    """A caller that is told of a failure may ask again: it must not be billed twice."""
    account = reported()
    desk = Desk(books, account, ModelIdentity("tiny", 1))
    assert desk.rate_id
    work(account, "r1")

    async def settle_behind_a_slow_write() -> None:
        slow = books.write(lambda connection: time.sleep(0.5))
        await asyncio.sleep(0.1)  # it is under way
        with pytest.raises(BooksError, match="r1"):
            await desk.settle_soon(end_of("r1"), prompt_tokens=5, timeout_s=0.05)
        await asyncio.wrap_future(slow)

    asyncio.run(settle_behind_a_slow_write())
    books.write_now(lambda connection: None)
    assert request_receipts(books, *of_model("tiny"), limit=2) == ()
    assert desk.spent.num_tokens == 0


def test_a_reply_without_times_is_booked_as_failed(books: Books) -> None:
    desk = Desk(books, traced(), ModelIdentity("tiny", 1))
    end = SimpleNamespace(
        request_id="r9",
        finish_reason=None,
        num_prompt_tokens=2,
        num_cached_tokens=0,
        num_generated=0,
        timing=None,
        weights_digest=None,
        variant=None,
    )
    assert desk.settle(end).total.wall_ns == 0
    (receipt,) = request_receipts(books, *of_model("tiny"), limit=2)
    assert (receipt.finish_reason, receipt.queue_ns, receipt.first_token_ns) == ("error", None, None)
