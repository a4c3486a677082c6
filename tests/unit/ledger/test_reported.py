"""The account of a backend that is not ours: it tells only when requests begin and end."""

import pytest

from tuition.books.books import Books
from tuition.ledger.meter import ModelledMeter
from tuition.ledger.periods import Periods
from tuition.ledger.receipts import record_rate, record_request
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.reported import ReportedAccount
from unit.ledger.rows import record_of

MS = 1_000_000


def test_a_reported_account_shares_time_among_those_under_way(books: Books, machine, clock) -> None:
    account = ReportedAccount(machine, ModelledMeter(machine, clock), clock=clock)
    rate_id = record_rate(books, machine)
    writer = Periods(books, account, rate_id, "far", beat_s=3_600, period_s=0.0)
    clock.sleep(3 * MS)
    account.begin("a")
    clock.sleep(10 * MS)
    account.begin("b")
    writer.write()
    clock.sleep(20 * MS)
    account.end("a", prompt_tokens=7, generated_tokens=3)
    writer.write()
    clock.sleep(5 * MS)
    account.end("b")
    costs = [account.close(name) for name in ("a", "b", "never")]
    for cost in costs:
        record_request(books, record_of(cost, rate_id, model="far")).result()
    clock.sleep(2 * MS)
    writer.close()
    assert [cost.total.wall_ns for cost in costs] == [20 * MS, 15 * MS, 0]
    assert (costs[0].rule, costs[0].computed_tokens) == ("equal shares", 10)
    found = reconcile(books)
    assert found.findings == ()
    assert (found.idle.wall_ns, found.attributed.wall_ns) == (5 * MS, 35 * MS)
    with pytest.raises(ValueError, match="not under way"):
        account.end("a")
