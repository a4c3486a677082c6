"""Periods between an account and the books."""

from concurrent.futures import Future

import pytest

import tuition.ledger.periods as periods
from tuition.books.books import Books
from tuition.core.errors import BusyError
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.meter import ModelledMeter
from tuition.ledger.receipts import record_rate
from tuition.ledger.reconciliation import reconcile


def test_a_period_that_the_books_refuse_goes_with_the_next(
    books: Books, shape, machine, clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was drained from the account is nowhere else: were it dropped, idle time would be missing."""
    account = EngineAccount(shape, machine, ModelledMeter(machine, clock), clock=clock)
    book = periods.Periods(books, account, record_rate(books, machine), "bard")
    refused: Future[None] = Future()
    refused.set_exception(BusyError("locked", retry_after_s=1))
    with monkeypatch.context() as patch:
        patch.setattr(periods, "record_period", lambda *given: refused)
        clock.sleep(3_000)
        with pytest.raises(BusyError):
            book.write()
    clock.sleep(4_000)
    book.write()
    found = reconcile(books)
    assert found.holds
    assert found.idle.wall_ns == 7_000
