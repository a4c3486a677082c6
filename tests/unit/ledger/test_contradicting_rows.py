"""Rows that something other than tuition has changed: the check names each that contradicts another."""

from dataclasses import replace

import pytest
from sqlalchemy import delete, select, update

from tuition.books.schema import accounts, entries, periods, rates, requests, transactions
from tuition.core.errors import BooksError
from tuition.ledger.receipts import record_rate
from unit.ledger.life import Life, change, places, says


@pytest.mark.parametrize("unit", ["machine_ns", "energy_uj", "cost_nusd"])
def test_waste_of_a_receipt_that_was_not_posted_as_waste(life: Life, unit: str) -> None:
    column = requests.c[f"waste_{unit}"]
    change(life.books, update(requests).where(requests.c.id == "b1").values({column: column + 1}))
    assert places(life) == {"request b1"}
    assert "was posted as waste" in says(life, "request b1")


@pytest.mark.parametrize(
    ("frm", "to", "place"),
    [
        ("inference", "waste", "request a0"),
        ("inference", "idle", "transaction"),
        ("idle", "overhead", "period 1 (bard)"),
        ("overhead", "training", "transaction"),
    ],
)
def test_an_entry_that_is_moved_to_another_account(life: Life, frm: str, to: str, place: str) -> None:
    """Each transaction still sums to zero, and the machine has given as much as before."""
    numbers = {
        name: select(accounts.c.id).where(accounts.c.name == name).scalar_subquery() for name in (frm, to)
    }
    moved = update(entries).where(entries.c.account_id == numbers[frm]).values(account_id=numbers[to])
    change(life.books, moved)
    assert any(each.startswith(place) for each in places(life))


@pytest.mark.parametrize(
    ("table", "key", "values", "place"),
    [
        (requests, "a1", {"model": "other"}, "request a1"),
        (periods, 1, {"model": "other"}, "request a1"),
        (periods, 2, {"status": "lost"}, "period 2"),
        (rates, 1, {"machine_name": "a larger one"}, "rate 1"),
        (transactions, 1, {"kind": "gift"}, "transaction 1"),
    ],
)
def test_a_row_that_contradicts_another(life: Life, table, key: object, values: dict, place: str) -> None:
    change(life.books, update(table).where(table.c.id == key).values(**values))
    assert place in places(life)


def test_a_request_at_another_rate_than_its_posting(life: Life, make_machine) -> None:
    machine = make_machine()
    other = record_rate(life.books, replace(machine, name="another machine of the same price"))
    change(life.books, update(requests).where(requests.c.id == "a1").values(rate_id=other))
    assert f"posted at rate {life.rate_id}" in says(life, "request a1")


def test_a_period_that_was_posted_and_whose_row_is_missing(life: Life) -> None:
    change(life.books, delete(periods).where(periods.c.id == 4))
    change(life.books, delete(periods).where(periods.c.id == 3))
    assert "its row is missing" in says(life, "period 3")


@pytest.mark.parametrize("text_", ["{", "{}", "[]"])
def test_a_rate_that_cannot_be_read_is_named(life: Life, text_: str) -> None:
    change(life.books, update(rates).where(rates.c.id == life.rate_id).values(machine_json=text_))
    with pytest.raises(BooksError, match=f"rate {life.rate_id} of the books"):
        life.check()


def test_an_open_period_of_an_unreadable_process_counts_as_one_elsewhere(life: Life) -> None:
    """It is cut off once it has been silent for long."""
    opened = {"status": "open", "process": "nobody"}
    mine = update(periods).where(periods.c.id == 4)
    change(life.books, mine.values(**opened))
    life.check()
    change(life.books, mine.values(updated_unix_ns=0))
    assert "period 4 (bard)" in {each.place for each in life.check().losses}
