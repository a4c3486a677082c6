"""Laws L9 and L11: what is written into the books has two sides, sums to zero, and is all there is."""

from dataclasses import replace
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, insert, select

from tuition.books.books import Books
from tuition.books.schema import entries
from tuition.core.amount import NOTHING, Amount
from tuition.ledger.postings import KINDS, balanced, balances, post
from tuition.ledger.receipts import record_rate, write_request
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.statements import statement
from tuition.spec.machine import Machine
from tuition.spec.shape import ModelShape
from unit.ledger.rows import record_of
from unit.ledger.traces import EVENTS, RULE, play, write_periods

UNITS = st.integers(-(10**15), 10**15)
AMOUNTS = st.builds(Amount, UNITS, st.none() | UNITS, UNITS)
LINES = st.lists(st.tuples(st.sampled_from(sorted(KINDS)), AMOUNTS), max_size=6)
GROWING_BOOKS = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
"""One set of books for all examples: the laws hold whatever was written before."""

NUMBERS = count()


@pytest.fixture
def rate_id(books: Books, machine: Machine) -> int:
    return record_rate(books, machine)


@given(lines=LINES)
@settings(max_examples=300, deadline=None)
def test_law_11_every_posting_has_two_sides_that_sum_to_zero(lines: list[tuple[str, Amount]]) -> None:
    """In time, energy and money; energy of which a part is unknown is unknown on both sides."""
    both = balanced(lines)
    given_lines = [(account, amount) for account, amount in lines if amount != NOTHING]
    assert len(both) == (len(given_lines) + 1 if given_lines else 0)
    assert sum(amount.wall_ns for _, amount in both) == 0
    assert sum(amount.cost_nusd for _, amount in both) == 0
    energies = [amount.energy_uj for _, amount in both]
    known = all(amount.energy_uj is not None for _, amount in given_lines)
    assert sum(energies) == 0 if known else set(energies) == {None}  # type: ignore[arg-type]
    for (account, amount), (kept_account, kept) in zip(given_lines, both, strict=False):
        assert (kept_account, kept.wall_ns, kept.cost_nusd) == (account, amount.wall_ns, amount.cost_nusd)
        assert kept.energy_uj == (amount.energy_uj if known else None)


@given(transactions=st.lists(LINES, min_size=1, max_size=5))
@GROWING_BOOKS
def test_law_11_the_books_sum_to_zero_whatever_is_posted(
    books: Books, machine: Machine, transactions
) -> None:
    rate_id = record_rate(books, machine)

    def write(connection) -> None:
        for lines in transactions:
            post(connection, "test", "any", rate_id, lines, method="modelled")

    books.write_now(write)
    assert not [fault for fault in reconcile(books).faults if "in place of nothing" in fault.says]
    accounts = books.read(balances).values()
    assert sum(account.wall_ns for account in accounts) == 0
    assert sum(account.cost_nusd for account in accounts) == 0
    assert sum(account.energy_uj or 0 for account in accounts) == 0
    per_transaction = select(func.count()).select_from(entries).group_by(entries.c.transaction_id)
    sides = books.read(lambda connection: connection.execute(per_transaction).scalars().all())
    assert all(number >= 2 for number in sides)


@given(events=EVENTS, rule=RULE)
@GROWING_BOOKS
def test_laws_9_and_11_hold_in_the_books_for_any_trace(
    books: Books, rate_id: int, shape: ModelShape, machine: Machine, events, rule
) -> None:
    """The loaded total is the meter's: what requests caused, idle time and overhead, and nothing else."""
    outcome = play(shape, machine, events, rule)
    model = f"model {next(NUMBERS)}"

    def write(connection) -> None:
        for cost in outcome.costs:
            named = replace(cost, request_id=f"{model}/{cost.request_id}")
            write_request(connection, record_of(named, rate_id, model=model))

        write_periods(connection, model, rate_id, outcome.periods)

    books.write_now(write)
    (sheet,) = statement(books, model).models
    assert sheet.causal == sum((cost.total for cost in outcome.costs), NOTHING)
    assert (sheet.idle, sheet.overhead) == (outcome.total.idle, outcome.total.overhead)
    assert sheet.loaded == sheet.causal + sheet.idle + sheet.overhead == outcome.total.meter
    if sheet.causal.cost_nusd and sheet.num_tokens:  # spread in proportion to what was caused
        spread = sheet.usd_per_mtok(loaded=True) * sheet.num_tokens / 1e6
        assert spread == pytest.approx(sheet.loaded.usd, rel=1e-12)
    assert reconcile(books).holds
    assert sum(books.read(balances).values(), NOTHING) == NOTHING


@pytest.mark.parametrize("unit", ["wall_ns", "energy_uj", "cost_nusd"])
def test_the_check_of_law_11_finds_one_unit_on_one_side(books: Books, rate_id: int, unit: str) -> None:
    lines = [("inference", Amount(5, 6, 7)), ("waste", Amount(1, 1, 1))]
    posted = books.write_now(lambda connection: post(connection, "t", "s", rate_id, lines, method="nvml"))
    place = f"transaction {posted} (s)"
    assert place not in {fault.place for fault in reconcile(books).faults}
    third = {"wall_ns": 0, "energy_uj": 0, "cost_nusd": 0, unit: 1, "energy_method": "nvml"}
    account = select(func.min(entries.c.account_id)).scalar_subquery()
    row = insert(entries).values(transaction_id=posted, account_id=account, **third)
    books.write_now(lambda connection: connection.execute(row) and None)
    assert place in {fault.place for fault in reconcile(books).faults}
