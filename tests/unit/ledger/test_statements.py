"""Receipts and statements: the same figures in every form, crossover and loading by their definitions."""

import csv
import io
import json
import time
from dataclasses import replace
from fractions import Fraction

import pytest

from tuition.books.books import Books
from tuition.books.scores import insert_score
from tuition.core.errors import BooksError, NotFoundError
from tuition.core.records import Score, SequenceWork, StepRecord, StepTrace
from tuition.core.units import UJ_PER_WH
from tuition.ledger.amortization import (
    crossover_tokens,
    straight_line,
    true_up,
    units_of_production,
)
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.meter import ModelledMeter
from tuition.ledger.periods import Periods
from tuition.ledger.receipts import (
    RequestRow,
    record_price,
    record_rate,
    record_request,
)
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.render import how_energy, render, show
from tuition.ledger.statements import (
    call_receipts,
    percentile,
    request_receipt,
    request_receipts,
    statement,
    training_receipt,
)
from tuition.ledger.training import RunInfo, TrainingBill

MS = 1_000_000


@pytest.fixture
def filled(books: Books, shape, machine, clock) -> Books:
    """A trained model with three requests in one period, and one that was not trained here."""
    meter = ModelledMeter(machine, clock)
    with TrainingBill.open(books, meter, RunInfo("bard"), run_id="bard-run") as bill:
        start = bill.meter.start()
        clock.sleep(4_000 * MS)
        bill.add_step(StepRecord(1, 2.0, 1.0, 0.1, 1_000, 10**11, bill.meter.stop(start), 1.0))
    score = Score("bits_per_byte", 1.8, 0.01, "bits per byte", "a test", num_items=9, run_id="bard-run")
    books.write_now(lambda connection: connection.execute(insert_score("bard", None, score)).rowcount)
    rate_id = record_rate(books, machine)
    account = EngineAccount(shape, machine, meter, clock=clock)
    periods = Periods(books, account, rate_id, "bard")
    for i, name in enumerate(("r0", "r1", "r2")):
        begin = clock.now + 3 * MS
        clock.sleep(10 * MS)
        account.add(StepTrace(begin, clock.now, (SequenceWork(name, "prefill", 20, 0, 1),)))
        begin = clock.now
        clock.sleep((i + 1) * 5 * MS)
        account.add(StepTrace(begin, clock.now, (SequenceWork(name, "decode", 2, 20, 2, 1),)))
        row = RequestRow(
            name, "bard", 1, "d" * 64, None, time.time_ns() + i, 24, 4, 3, MS, 2 * MS, (i + 1) * 100 * MS,
            "stop", account.close(name), rate_id,
        )  # fmt: skip
        record_request(books, row).result()
    clock.sleep(50 * MS)
    periods.close()
    elsewhere = EngineAccount(shape, machine, meter, clock=clock)
    other = RequestRow("x0", "smollm2", None, None, "key", time.time_ns(), 1, 0, 0, None, None, 5,
                       "cancelled", elsewhere.close("x0"), rate_id)  # fmt: skip
    record_request(books, other).result()
    return books


def test_the_statement_puts_fixed_and_variable_cost_together(filled: Books) -> None:
    (model,) = statement(filled, "bard").models
    receipts = request_receipts(filled, "bard")
    assert model.fixed == training_receipt(filled, "bard").total
    assert model.causal.cost_nusd == sum(receipt.total.cost_nusd for receipt in receipts)
    assert (model.num_requests, model.num_tokens) == (3, 3 * (24 - 4 + 3))
    marginal = model.causal.cost_nusd / model.num_tokens
    assert model.crossover() == pytest.approx(model.fixed.cost_nusd / marginal)
    assert model.usd_per_mtok() == pytest.approx(marginal / 1e9 * 1e6)
    assert model.prefill + model.decode == model.causal
    assert (model.latency_p50_ns, model.latency_p99_ns) == (200 * MS, 300 * MS)


def test_law_9_loaded_is_causal_with_idle_and_overhead(filled: Books) -> None:
    (model,) = statement(filled, "bard").models
    assert model.loaded == model.causal + model.idle + model.overhead
    assert model.idle.wall_ns == 50 * MS + 9 * MS
    assert model.crossover(loaded=True) < model.crossover()
    whole = model.usd_per_mtok(loaded=True) * model.num_tokens / 1e6 * 1e9
    assert whole == pytest.approx(model.loaded.cost_nusd)
    building = model.wh_per_mtok(loaded=True) * model.num_tokens / 1e6 * UJ_PER_WH
    assert building == pytest.approx(model.building_uj) == pytest.approx(1.3 * model.loaded.energy_uj)
    assert model.utilisation == pytest.approx(51 / (51 + 59))


def test_a_model_that_was_not_trained_here_has_an_unknown_fixed_cost(filled: Books) -> None:
    (model,) = statement(filled, "smollm2").models
    assert model.fixed is None
    assert model.crossover() is None
    assert "not trained here" in render(model)


def test_the_books_reconcile(filled: Books) -> None:
    reconciliation = reconcile(filled)
    assert reconciliation.holds
    assert reconciliation.attributed == reconciliation.requests


def test_an_unknown_name_is_refused_with_the_known_ones(filled: Books) -> None:
    with pytest.raises(NotFoundError, match="bard, smollm2"):
        statement(filled, "nobody")
    with pytest.raises(NotFoundError, match="r2"):
        request_receipt(filled, "nothing")
    with pytest.raises(NotFoundError, match="bard-run"):
        training_receipt(filled, "nothing")


def test_a_request_is_recorded_once(filled: Books, shape, machine, clock) -> None:
    """The same row again changes nothing; another row under an id that is taken is refused."""
    account = EngineAccount(shape, machine, ModelledMeter(machine, clock), clock=clock)
    row = RequestRow("new", "bard", 1, None, None, 1, 1, 0, 0, 0, 0, 1, "stop", account.close("new"), 1)
    record_request(filled, row).result()
    before = reconcile(filled)
    record_request(filled, row).result()
    for other in (replace(row, request_id="r0"), replace(row, generated_tokens=1)):
        with pytest.raises(BooksError, match="other figures"):
            record_request(filled, other).result()
    assert reconcile(filled) == before
    assert before.holds


def test_replies_of_a_call_come_by_number_and_nothing_else_does(books: Books, shape, machine, clock) -> None:
    """Ids of other calls may begin alike; the tenth reply comes after the second."""
    account = EngineAccount(shape, machine, ModelledMeter(machine, clock), clock=clock)
    rate_id = record_rate(books, machine)
    for name in ("req_a-10", "req_a-2", "req_a-0", "req_ab-0", "cli-a-request-1", "cli-a-request-10"):
        row = RequestRow(
            name, "bard", 1, None, None, 7, 1, 0, 0, 0, 0, 1, "stop", account.close(name), rate_id
        )
        record_request(books, row).result()
    assert [one.request_id for one in call_receipts(books, "req_a")] == ["req_a-0", "req_a-2", "req_a-10"]
    assert [one.request_id for one in call_receipts(books, "req_a-2")] == ["req_a-2"]
    assert [one.request_id for one in call_receipts(books, "cli-a-request-1")] == ["cli-a-request-1"]
    with pytest.raises(NotFoundError, match="cli"):
        call_receipts(books, "cli")


def test_a_rate_is_kept_once_and_a_change_is_a_new_row(books: Books, machine, make_machine) -> None:
    first = record_rate(books, machine)
    assert record_rate(books, machine) == first
    assert record_rate(books, make_machine(usd_per_hour=9.0)) != first


@pytest.mark.parametrize("name", ["training", "request", "statement"])
def test_table_json_and_csv_say_the_same(filled: Books, name: str) -> None:
    sheet = {
        "training": training_receipt(filled, "bard"),
        "request": request_receipt(filled, "r1"),
        "statement": statement(filled),
    }[name]
    nested = json.loads(render(sheet, "json"))
    rows = list(csv.DictReader(io.StringIO(render(sheet, "csv"))))
    table = render(sheet)
    assert len(rows) == sum(len(figures) for figures in nested.values())
    for row in rows:
        figure = nested[row["section"]][row["figure"]]
        assert row["value"] == ("" if figure["value"] is None else str(figure["value"]))
        assert row["section"] in table
        assert f"{row['figure']} " in table
        assert show(figure["value"], figure["unit"]) in table


def test_every_figure_of_money_and_energy_says_how_it_was_obtained(filled: Books) -> None:
    for sheet in (training_receipt(filled, "bard"), request_receipt(filled, "r0"), statement(filled, "bard")):
        for section in json.loads(render(sheet, "json")).values():
            for name, figure in section.items():
                if figure["unit"] in ("nUSD", "uJ", "ns", "g CO2e"):
                    assert figure["how"], name
    table = render(training_receipt(filled, "bard"))
    assert "rate assumed" in table
    assert "modelled, power from the catalogue" in table
    assert how_energy("nvml", {"origins": {}}) == "measured (nvml)"


def test_unknown_is_written_as_unknown_and_nothing_as_nothing() -> None:
    assert show(None, "uJ") == "unknown"
    assert show(0, "nUSD") == "$0"
    assert show(0, "tokens") == "0 tokens"


def test_prices_are_appended(books: Books) -> None:
    for nusd in (5, 6):
        record_price(books, "bard", source="a test", output_nusd_per_mtok=nusd)
    count = books.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM prices").scalar())
    assert count == 2


def test_percentiles_are_values_that_occurred() -> None:
    values = list(range(1, 101))
    assert percentile(values, 0.99) == 99
    assert percentile([7], 0.99) == 7
    assert percentile([], 0.5) is None


def test_depreciation_ends_at_the_residual_value() -> None:
    assert straight_line(1_000, 200, 100, 50) == 400
    assert straight_line(1_000, 200, 100, 500) == 800
    assert units_of_production(1_000, 0, 10**6, 250_000) == 250
    assert units_of_production(1_000, 0, 10**6, 10**9) == 1_000
    assert true_up(1_000, 0, 250, 750) == 1.0
    for bad in (
        lambda: straight_line(1, 2, 3, 4),
        lambda: units_of_production(1, 0, 0, 1),
        lambda: true_up(1, 0, 0, 0),
    ):
        with pytest.raises(ValueError, match="cost"):
            bad()


def test_the_crossover_is_exact_where_money_is() -> None:
    assert crossover_tokens(1_000, 2.0) == 500
    assert crossover_tokens(1_000, 0.0) is None
    assert crossover_tokens(10**17 + 1, Fraction(1, 3)) == 3 * 10**17 + 3, "a float has 53 bits"
