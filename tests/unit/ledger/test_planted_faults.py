"""Each planted fault makes the check fail, and the check names the place. The same books without it hold."""

from dataclasses import replace

import pytest
from sqlalchemy import delete, func, insert, select, update

from tuition.books.schema import entries, periods, rates, requests, transactions
from tuition.core.records import SequenceWork, StepTrace
from tuition.ledger import attribution
from tuition.ledger.meter import CounterMeter
from tuition.ledger.receipts import record_rate
from tuition.ledger.shares import Share
from unit.ledger.life import MS, Life, change, copy_of, places, says

# --- what the engine or the split does wrong ---------------------------------------------------------------


def test_a_step_whose_trace_is_lost(begin) -> None:
    life = begin()
    life.period(0)
    life.step("x", lost=True)
    life.period(1)
    life.period(2)
    life.periods.close()
    assert places(life) == {"period 2 (bard)"}
    told = says(life, "period 2 (bard)")
    assert "1 steps were measured and never billed" in told
    assert "worked 60,000,000 ns, and 40,000,000 ns were billed" in told
    assert "its meter and its shares differ by 0 ns, 488,000 uJ" in told, "20 ms at 31.7 W in place of 7.3 W"


def test_a_step_whose_trace_is_told_twice(begin) -> None:
    life = begin()
    life.period(0)
    life.step("x", twice=True)
    life.charge("x")
    life.period(1)
    life.periods.close()
    assert places(life) == {"period 2 (bard)"}
    assert "1 steps were billed and never measured, or twice" in says(life, "period 2 (bard)")


def test_a_step_that_is_told_longer_than_it_was(begin) -> None:
    life = begin()
    life.period(0)
    begun = life.clock()
    life.account.engine_marks().end(begun, begun + 3 * MS)
    life.clock.sleep(20 * MS)
    life.account.add(StepTrace(begun, life.clock(), (SequenceWork("x", "decode", 1, 1, 1),)))
    life.charge("x")
    life.period(1)
    life.periods.close()
    assert places(life) == {"period 2 (bard)"}


def test_a_share_of_a_step_that_is_dropped(begin, monkeypatch: pytest.MonkeyPatch) -> None:
    life = begin()
    life.period(0)
    split = attribution.split_step

    def forgetful(*given, **named):
        shares = split(*given, **named)
        return [Share(0, 0), *shares[1:]]

    monkeypatch.setattr(attribution, "split_step", forgetful)
    life.period(1)
    monkeypatch.undo()
    life.period(2)
    life.periods.close()
    told = [fault for fault in life.check().faults if "belong to no request" in fault.says]
    assert {fault.place for fault in told} == {"period 2 (bard)"}


def test_a_clock_that_jumps(begin, clock) -> None:
    """An hour in one period, by the meter's clock; the second clock knows nothing of it."""
    jump = [0]
    life = begin(witness=lambda: (clock.now - jump[0], (clock.now - jump[0]) // 3))
    life.period(0)
    jump[0] = 3_600_000 * MS
    clock.sleep(jump[0])
    life.period(1)
    life.period(2)
    life.periods.close()
    assert places(life) == {"period 2 (bard)"}
    assert "its clock passed 1 h 00 min" in says(life, "period 2 (bard)")


def test_a_counter_that_stands_still(begin, machine, clock) -> None:
    stands = [None]
    counter = lambda: stands[0] if stands[0] is not None else clock.now // 50  # noqa: E731
    life = begin(CounterMeter(machine, "rapl", counter, clock))
    life.step("a", ms=400)
    life.charge("a")
    life.periods.write()
    assert life.check().findings == ()
    stands[0] = counter()
    life.clock.sleep(400 * MS)
    life.periods.write()
    life.step("b", ms=400)
    life.charge("b")
    life.periods.write()
    life.periods.close()
    assert places(life) == {"period 3 (bard)"}
    assert "(rapl) stood still in 400 ms of work" in says(life, "period 3 (bard)")


def test_a_period_with_requests_that_were_never_charged(begin) -> None:
    life = begin()
    life.step("forgotten")
    life.periods.close()
    assert places(life) == {"period 1 (bard)"}
    assert "never charged: forgotten" in says(life, "period 1 (bard)")


def test_a_request_whose_receipt_was_not_written(begin) -> None:
    life = begin()
    life.period(0)
    life.step("x")
    life.account.close("x")
    life.periods.close()
    assert places(life) == {"period 2 (bard)"}
    assert "its requests were charged" in says(life, "period 2 (bard)")


def test_a_charge_that_was_written_off_is_overhead_and_no_fault(begin) -> None:
    """Its receipt could not be written and its client was told so: the time has passed all the same."""
    life = begin()
    life.period(0)
    life.step("x")
    life.account.write_off(life.account.close("x"))
    life.periods.close()
    found = life.check()
    assert found.findings == ()
    assert found.overhead.wall_ns == (2 + 20) * MS, "a gap in the period, and the step that nobody pays"
    assert found.attributed == found.requests


# --- what somebody does to the books afterwards ------------------------------------------------------------


def test_a_period_that_is_missing(life: Life) -> None:
    change(life.books, delete(periods).where(periods.c.id == 2))
    told = places(life)
    assert "period 3 (bard)" in told
    assert "period number 1 is missing before it" in says(life, "period 3 (bard)")


def test_the_first_period_is_missing(life: Life) -> None:
    change(life.books, delete(periods).where(periods.c.id == 1))
    assert "period number 0 is missing before it" in says(life, "period 2 (bard)")


def test_a_doubled_period(life: Life) -> None:
    change(life.books, insert(periods).values(**copy_of(life, periods, periods.c.id == 2, id=9)))
    assert "period 9 (bard)" in places(life)
    assert "comes twice in its account" in says(life, "period 9 (bard)")


def test_a_period_that_overlaps_the_one_before(life: Life) -> None:
    change(life.books, update(periods).where(periods.c.id == 3).values(start_ns=periods.c.start_ns - 7))
    assert places(life) == {"period 3 (bard)"}
    assert "before the end of the period before it" in says(life, "period 3 (bard)")


@pytest.mark.parametrize("part", ["meter", "attributed", "idle", "overhead"])
@pytest.mark.parametrize("unit", ["wall_ns", "energy_uj", "cost_nusd"])
def test_one_unit_more_in_a_part_of_a_period(life: Life, part: str, unit: str) -> None:
    column = periods.c[f"{part}_{unit}"]
    change(life.books, update(periods).where(periods.c.id == 2).values({column: column + 1}))
    assert "period 2 (bard)" in places(life)


def test_a_posting_without_its_other_side(life: Life) -> None:
    first = select(func.min(transactions.c.id)).where(transactions.c.subject == "b1").scalar_subquery()
    number = life.books.read(lambda c: c.execute(select(first)).scalar())
    last = select(func.max(entries.c.id)).where(entries.c.transaction_id == number).scalar_subquery()
    change(life.books, delete(entries).where(entries.c.id == last))
    assert f"transaction {number} (b1)" in places(life)


def test_a_request_without_its_postings(life: Life) -> None:
    mine = select(transactions.c.id).where(transactions.c.subject == "c2").scalar_subquery()
    change(
        life.books,
        delete(entries).where(entries.c.transaction_id == mine),
        delete(transactions).where(transactions.c.subject == "c2"),
    )
    assert "request c2" in places(life)
    assert "it was not posted" in says(life, "request c2")


def test_a_request_that_was_posted_twice(life: Life) -> None:
    header = copy_of(life, transactions, transactions.c.subject == "a0", id=900)
    mine = select(transactions.c.id).where(transactions.c.subject == "a0").scalar_subquery()
    query = select(entries).where(entries.c.transaction_id == mine)
    rows = life.books.read(lambda c: [dict(row) for row in c.execute(query).mappings()])
    copies = [row | {"id": 900 + i, "transaction_id": 900} for i, row in enumerate(rows)]
    change(life.books, insert(transactions).values(**header), insert(entries).values(copies))
    assert "request a0" in places(life)
    assert "posted 2 times" in says(life, "request a0")


def test_a_doubled_request_row(life: Life) -> None:
    change(
        life.books, insert(requests).values(**copy_of(life, requests, requests.c.id == "a0", id="a0-again"))
    )
    told = places(life)
    assert "request a0-again" in told
    assert "period 4 (bard)" in told, "its account charged less than its receipts say"


def test_a_receipt_that_is_missing(life: Life) -> None:
    change(life.books, delete(requests).where(requests.c.id == "b2"))
    assert "request b2" in places(life)
    assert "its receipt is missing" in says(life, "request b2")


def test_a_receipt_whose_money_was_changed_together_with_its_postings(life: Life) -> None:
    """Both sides of the books agree; the rate and the account's periods do not."""
    mine = select(transactions.c.id).where(transactions.c.subject == "a1").scalar_subquery()
    more = 1_000_000
    change(life.books, update(requests).where(requests.c.id == "a1").values(
        total_cost_nusd=requests.c.total_cost_nusd + more, decode_cost_nusd=requests.c.decode_cost_nusd + more
    ))  # fmt: skip
    sign = [(entries.c.cost_nusd > 0, more), (entries.c.cost_nusd < 0, -more)]
    for which, step in sign:
        line = (entries.c.transaction_id == mine) & which
        change(life.books, update(entries).where(line).values(cost_nusd=entries.c.cost_nusd + step))
    told = places(life)
    assert {"request a1", "period 4 (bard)"} <= told
    assert "nUSD at rate 1" in says(life, "request a1")


@pytest.mark.parametrize("what", ["usd_per_hour", "machine_json"])
def test_a_rate_that_was_changed_after_the_fact(life: Life, what: str) -> None:
    row = copy_of(life, rates, rates.c.id == life.rate_id)
    figures = {
        "usd_per_hour": {"usd_per_hour": 9.0},
        "machine_json": {"machine_json": row["machine_json"].replace("0.0837", "9.0")},
    }
    change(life.books, update(rates).where(rates.c.id == life.rate_id).values(figures[what]))
    assert f"rate {life.rate_id}" in places(life)


def test_a_period_that_is_moved_to_another_rate(life: Life, make_machine) -> None:
    other = record_rate(life.books, make_machine(usd_per_hour=9.0))
    change(life.books, update(periods).where(periods.c.id == 2).values(rate_id=other))
    assert "period 2 (bard)" in places(life)
    assert f"at rate {other}" in says(life, "period 2 (bard)")


def test_a_replaced_total_is_no_longer_the_sum(life: Life) -> None:
    """The check looks at what is stored, not at what it computes again: a stored residual must agree."""
    change(life.books, update(periods).where(periods.c.id == 1).values(residual_energy_uj=5))
    assert "period 1 (bard)" in places(life)
    assert replace(life.check(), findings=()).holds
