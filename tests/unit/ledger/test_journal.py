"""A row of the books that was changed, added or removed is found and named, also where it is stored once."""

import pytest
from sqlalchemy import Connection, delete, func, insert, select, text, update

from tuition.books.books import Books
from tuition.books.journal import LINE_ROWS
from tuition.books.migrate import downgrade, migrate
from tuition.books.schema import (
    entries,
    journal,
    metadata,
    periods,
    prices,
    rates,
    requests,
    run_costs,
    runs,
    transactions,
)
from tuition.core.errors import BooksError
from tuition.core.records import StepRecord
from tuition.ledger.audit_journal import ADDED, BROKEN, CHANGED, GONE
from tuition.ledger.meter import ModelledMeter
from tuition.ledger.receipts import record_price, record_request
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.statements import request_receipt, statement, training_receipt
from tuition.ledger.training import RunInfo, TrainingBill
from unit.ledger.life import MS, Life, change, copy_of
from unit.ledger.rows import record_of


@pytest.fixture
def whole(life: Life, machine, clock) -> Life:
    """Periods and requests, a training run that was finished, a price."""
    with TrainingBill.open(life.books, ModelledMeter(machine, clock), RunInfo("bard"), "bard-run") as bill:
        start = bill.meter.start()
        clock.sleep(10 * MS)
        bill.add_step(StepRecord(1, 2.5, 1.0, 0.1, 10, 7, bill.meter.stop(start), 1.0))
    record_price(life.books, "bard", source="a list", input_nusd_per_mtok=5)
    assert life.check().findings == ()
    return life


def findings(books: Books) -> set[tuple[str, str]]:
    return {(each.place, each.says) for each in reconcile(books).faults}


REQUEST, RUN, PERIOD = requests.c.id == "a1", runs.c.id == "bard-run", periods.c.id == 2


@pytest.mark.parametrize(
    ("statement_", "place"),
    [
        (update(requests).where(REQUEST).values(generated_tokens=900), "request a1"),
        (update(requests).where(REQUEST).values(prompt_tokens=requests.c.prompt_tokens + 1), "request a1"),
        (update(requests).where(REQUEST).values(flops=requests.c.flops + 1), "request a1"),
        (update(requests).where(REQUEST).values(kv_bytes=0), "request a1"),
        (update(requests).where(REQUEST).values(finish_reason="length"), "request a1"),
        (update(requests).where(REQUEST).values(api_key_id="somebody"), "request a1"),
        (update(runs).where(RUN).values(num_tokens=1_000), "run bard-run"),
        (update(runs).where(RUN).values(flops=8), "run bard-run"),
        (update(runs).where(RUN).values(last_loss=0.1), "run bard-run"),
        (update(runs).where(RUN).values(metered=False), "run bard-run"),
        (update(run_costs).where(run_costs.c.kind == "step").values(energy_method="nvml"), "run bard-run"),
        (update(periods).where(PERIOD).values(flops=0), "period 2"),
        (update(periods).where(PERIOD).values(energy_method="nvml"), "period 2"),
        (update(transactions).where(transactions.c.id == 1).values(memo="?"), "transaction 1"),
        (update(entries).where(entries.c.id == 1).values(energy_method="nvml"), "transaction 1"),
        (update(prices).values(input_nusd_per_mtok=4), "price 1"),
        (update(rates).values(created_unix_ns=1), "rate 1"),
    ],
)
def test_a_figure_that_is_stored_once(whole: Life, statement_, place: str) -> None:
    change(whole.books, statement_)
    assert (place, CHANGED) in findings(whole.books)


def test_a_meter_that_is_hidden(whole: Life) -> None:
    """A run that says that it had no meter, and its period removed: both are named."""
    change(
        whole.books, update(runs).values(metered=False), delete(periods).where(periods.c.run_id == "bard-run")
    )
    assert ("run bard-run", CHANGED) in findings(whole.books)
    assert ("period 5", GONE) in findings(whole.books)


def test_a_run_that_was_removed_with_everything_that_names_it(whole: Life) -> None:
    mine = select(transactions.c.id).where(transactions.c.subject == "bard-run").scalar_subquery()
    change(
        whole.books,
        delete(entries).where(entries.c.transaction_id.in_(mine)),
        delete(transactions).where(transactions.c.subject == "bard-run"),
        delete(run_costs),
        delete(periods).where(periods.c.run_id == "bard-run"),
        delete(runs),
    )
    told = {place for place, says in findings(whole.books) if says == GONE}
    assert {"run bard-run", "period 5"} < told
    assert any(place.startswith("transaction") for place in told)


def test_a_price_and_a_free_request_that_were_removed(whole: Life) -> None:
    """Nothing else names them: a request that cost nothing has no posting."""
    cost = whole.account.close("free")
    assert cost.total.wall_ns == 0
    record_request(whole.books, record_of(cost, whole.rate_id)).result()
    assert whole.check().findings == ()
    change(whole.books, delete(prices), delete(requests).where(requests.c.id == "free"))
    assert findings(whole.books) == {("price 1", GONE), ("request free", GONE)}


def test_rows_that_were_added(whole: Life) -> None:
    free = copy_of(whole, requests, REQUEST, id="planted", account=None)
    nothing = {
        name: 0 for name in free if name.endswith(("_ns", "_uj", "_nusd")) and name != "created_unix_ns"
    }
    price = copy_of(whole, prices, prices.c.id == 1, id=7, input_nusd_per_mtok=0)
    change(whole.books, insert(requests).values(**free | nothing), insert(prices).values(**price))
    assert findings(whole.books) == {("request planted", ADDED), ("price 7", ADDED)}


def test_a_line_of_the_journal_that_was_changed_or_removed(whole: Life) -> None:
    change(whole.books, update(journal).where(journal.c.id == 3).values(created_unix_ns=1))
    assert ("journal line 3", BROKEN) in findings(whole.books)
    change(whole.books, delete(journal).where(journal.c.id == 3))
    assert ("journal line 4", BROKEN) in findings(whole.books)
    change(whole.books, update(journal).where(journal.c.id == 4).values(rows_json="nonsense"))
    assert ("journal line 4", BROKEN) in findings(whole.books)


def test_the_end_of_the_journal_that_was_removed(whole: Life) -> None:
    """No later line is there to differ, but the rows that it named are not named any more."""
    newest = select(func.max(journal.c.id)).scalar_subquery()
    change(whole.books, delete(journal).where(journal.c.id == newest))
    assert findings(whole.books) == {("price 1", ADDED)}


def test_a_write_that_is_rolled_back_leaves_nothing_in_the_journal(life: Life) -> None:
    def fails(connection: Connection) -> None:
        raise RuntimeError("after the row was written")

    record = record_of(life.account.close("x"), life.rate_id)
    from tuition.ledger.receipts import write_request

    def both(connection: Connection) -> None:
        write_request(connection, record)
        fails(connection)

    futures = [
        life.books.write(both),
        record_request(life.books, record_of(life.account.close("y"), life.rate_id)),
    ]
    with pytest.raises(RuntimeError):
        futures[0].result()
    futures[1].result()
    assert life.check().findings == ()
    lines = life.books.read(lambda c: c.execute(select(journal.c.rows_json)).scalars().all())
    assert '"y"' in lines[-1]
    assert not any('"x"' in line for line in lines)


def test_more_rows_than_are_compared_at_once(life: Life) -> None:
    many = [record_of(life.account.close(f"r{i}"), life.rate_id) for i in range(2 * LINE_ROWS + 3)]
    for future in [record_request(life.books, record) for record in many]:
        future.result()
    assert life.check().findings == ()
    for name in ("r0", f"r{LINE_ROWS}", f"r{2 * LINE_ROWS + 2}"):
        change(life.books, update(requests).where(requests.c.id == name).values(generated_tokens=2))
        assert (f"request {name}", CHANGED) in findings(life.books)
    assert len(findings(life.books)) == 3


def test_books_from_before_the_journal_are_taken_over_as_they_are(whole: Life) -> None:
    whole.books.write_now(lambda connection: downgrade(connection, "0005"))
    assert whole.books.write_now(migrate) is True
    assert whole.check().findings == ()
    change(whole.books, update(requests).where(REQUEST).values(generated_tokens=900))
    assert findings(whole.books) == {("request a1", CHANGED)}


def test_every_table_of_the_books_is_in_the_journal() -> None:
    """Entries and costs are noted with their transaction and run."""
    from tuition.books.journal import NOTED, PARTS

    noted = {table.name for table in NOTED} | {part.name for part, *_ in PARTS.values()}
    assert set(metadata.tables) - noted == {"accounts", "journal"}


# --- columns of numbers that hold something else ------------------------------------------------------------


def test_flops_of_a_run_that_are_no_number(whole: Life) -> None:
    change(whole.books, text("UPDATE runs SET flops = 'x'"))
    for read in (
        whole.check,
        lambda: statement(whole.books),
        lambda: training_receipt(whole.books, "bard-run"),
    ):
        with pytest.raises(BooksError, match="run bard-run has 'x' in flops: a number belongs there"):
            read()


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (
            "UPDATE requests SET generated_tokens = 'many' WHERE id = 'a1'",
            "request a1 has 'many' in generated_t",
        ),
        (
            "UPDATE requests SET total_cost_nusd = 1.5 WHERE id = 'a1'",
            "request a1 has '1.5' in total_cost_nusd",
        ),
        ("UPDATE periods SET idle_wall_ns = 'x' WHERE id = 2", "period 2 has 'x' in idle_wall_ns"),
        ("UPDATE runs SET last_loss = 'low'", "run bard-run has 'low' in last_loss"),
        ("UPDATE entries SET cost_nusd = '' WHERE id = 1", "entry 1 has '' in cost_nusd"),
        ("UPDATE run_costs SET wall_ns = 'x'", "cost of run bard-run has 'x' in wall_ns"),
    ],
)
def test_a_column_of_numbers_that_holds_text(whole: Life, database: str, edit: str, named: str) -> None:
    """SQLite stores it; PostgreSQL refuses it."""
    if database == "postgresql":
        pytest.skip("PostgreSQL refuses such a value")
    change(whole.books, text(edit))
    with pytest.raises(BooksError, match=named):
        whole.check()
    if "request" in named:
        with pytest.raises(BooksError, match=named):
            request_receipt(whole.books, "a1")
    if "entry" not in named:
        with pytest.raises(BooksError, match=named):
            statement(whole.books)
