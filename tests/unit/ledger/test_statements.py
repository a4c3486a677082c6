"""Receipts and statements: the same figures in every form, crossover and loading by their definitions."""

import csv
import io
import json
import os
import time
import tracemalloc
from dataclasses import replace

import pytest
from sqlalchemy import insert

from tuition.books.books import Books
from tuition.books.schema import requests
from tuition.books.scores import write_score
from tuition.core.errors import BooksError, NotFoundError
from tuition.core.records import Score, SequenceWork, StepRecord, StepTrace
from tuition.core.request_record import to_columns
from tuition.core.units import UJ_PER_WH, format_time
from tuition.ledger.attribution import EngineAccount
from tuition.ledger.export import FIELDS, RequestWriter, request_object
from tuition.ledger.meter import ModelledMeter
from tuition.ledger.periods import Periods
from tuition.ledger.receipts import (
    record_price,
    record_rate,
    record_request,
)
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.render import how_energy, render, show
from tuition.ledger.sheets import Span
from tuition.ledger.statements import (
    call_receipts,
    each_request,
    in_span,
    of_model,
    percentile,
    request_receipt,
    request_receipts,
    statement,
    training_receipt,
)
from tuition.ledger.training import RunInfo, TrainingBill
from tuition.spec.machine import Origin
from unit.ledger.rows import record_of

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
    books.write_now(lambda connection: write_score(connection, "bard", None, score))
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
        figures = {"created_unix_ns": time.time_ns() + i, "prompt_tokens": 24, "cached_tokens": 4}
        figures |= {"generated_tokens": 3, "total_ns": (i + 1) * 100 * MS, "weights_digest": "d" * 64}
        record_request(books, record_of(account.close(name), rate_id, **figures)).result()
    clock.sleep(50 * MS)
    periods.close()
    elsewhere = EngineAccount(shape, machine, meter, clock=clock)
    figures = {"model": "smollm2", "api_key_id": "key", "finish_reason": "cancelled", "generated_tokens": 0}
    record_request(books, record_of(elsewhere.close("x0"), rate_id, **figures)).result()
    return books


def test_the_statement_puts_fixed_and_variable_cost_together(filled: Books) -> None:
    (model,) = statement(filled, "bard").models
    receipts = request_receipts(filled, *of_model("bard"))
    assert model.fixed == training_receipt(filled, "bard").total
    assert model.causal.cost_nusd == sum(receipt.total.cost_nusd for receipt in receipts)
    assert (model.num_requests, model.num_tokens) == (3, 3 * (24 - 4 + 3))
    marginal = model.causal.cost_nusd / model.num_tokens
    assert model.crossover() == pytest.approx(model.fixed.cost_nusd / marginal)
    assert model.usd_per_mtok() == pytest.approx(marginal / 1e9 * 1e6)
    assert model.prefill + model.decode == model.causal
    assert (model.latency_p50_ns, model.latency_p99_ns) == (200 * MS, 300 * MS)


def test_history_keeps_the_factors_and_labels_that_were_valid(
    books: Books, shape, machine, make_machine, clock
) -> None:
    """One call on dirty electricity at an assumed rate, one on clean electricity at the user's own."""
    yours = {"usd_per_hour": Origin("user", "your settings"), "carbon_g_per_kwh": Origin("user", "yours")}
    dirty = make_machine(carbon_g_per_kwh=1_000.0, pue=2.0, electricity_in_rate=True)
    clean = make_machine(carbon_g_per_kwh=0.0, pue=1.0, electricity_in_rate=True, origins=yours)
    receipts = []
    for number, used in enumerate((dirty, clean)):
        account = EngineAccount(shape, used, ModelledMeter(used, clock), clock=clock)
        begun = clock.now
        clock.sleep(400 * MS)
        account.add(StepTrace(begun, clock.now, (SequenceWork(f"r{number}", "decode", 1, 3, 1),)))
        rate_id = record_rate(books, used)
        record_request(books, record_of(account.close(f"r{number}"), rate_id)).result()
        Periods(books, account, rate_id, "bard").close()
        receipts.append(request_receipt(books, f"r{number}"))
    (model,) = statement(books).models
    energy_uj = receipts[0].total.energy_uj
    assert receipts[1].carbon_g == 0
    assert receipts[0].carbon_g == pytest.approx(energy_uj / UJ_PER_WH / 1e3 * 2.0 * 1_000.0)
    assert model.carbon_g == pytest.approx(sum(receipt.carbon_g for receipt in receipts))
    assert model.building_uj == 3 * energy_uj
    table = render(model)
    assert "rate assumed and your rate" in table
    assert "with PUE; your grid" in render(receipts[1])


def test_a_span_takes_what_began_in_it(filled: Books) -> None:
    newest, *_, oldest = request_receipts(filled, *of_model("bard"))
    (model,) = statement(filled, "bard", Span(newest.created_unix_ns)).models
    assert (model.num_requests, model.fixed) == (1, None)
    assert len(request_receipts(filled, *in_span(Span(None, newest.created_unix_ns)), limit=None)) == 3
    with pytest.raises(NotFoundError):
        statement(filled, "bard", Span(None, oldest.created_unix_ns - 10**12))


def test_a_receipt_says_when_the_machine_was_busy_with_other_work(
    books: Books, shape, machine, clock
) -> None:
    account = EngineAccount(shape, machine, ModelledMeter(machine, clock), clock=clock)
    cost = account.close("r")
    quiet, busy = (
        replace(cost, request_id=name, cpu_ns=3 * MS, other_load_ppm=ppm)
        for name, ppm in (("quiet", 20_000), ("busy", 730_000))
    )
    for each in (quiet, busy):
        record_request(books, record_of(each, record_rate(books, machine))).result()
    table = render(request_receipt(books, "busy"))
    assert "73.0%  measured; it slowed this request, which paid for the longer time" in table
    assert "slowed" not in render(request_receipt(books, "quiet"))
    receipt = request_receipt(books, "busy")
    assert receipt.cpu_nusd == round(0.0837e9) * 3 * MS // (3_600 * 10**9 * machine.num_cores)
    assert "its CPU time alone, of 2 cores" in table


def test_requests_come_as_one_row_each_with_stable_names(filled: Books) -> None:
    """The same fields in CSV and JSON; time, model, version, key, tokens, USD and Wh among them."""
    texts = {}
    for format in ("csv", "json"):
        file = io.StringIO()
        with RequestWriter(file, format) as rows:
            each_request(filled, rows.write)
        texts[format] = file.getvalue()
    listed, table = json.loads(texts["json"]), list(csv.DictReader(io.StringIO(texts["csv"])))
    assert (
        [row["request_id"] for row in listed]
        == ["r2", "r1", "r0", "x0"]
        == [row["request_id"] for row in table]
    )
    assert tuple(listed[0]) == tuple(table[0]) == FIELDS
    assert len(set(FIELDS)) == len(FIELDS)
    wanted = {"time_utc", "model", "version", "api_key_id", "prompt_tokens", "generated_tokens", "cost_usd"}
    assert wanted | {"energy_wh", "total_cost_nusd", "total_energy_uj", "cpu_ns"} <= set(FIELDS)
    receipt = request_receipt(filled, "r1")
    assert request_object(receipt) == listed[1]
    assert (listed[1]["cost_usd"], listed[1]["energy_wh"]) == (receipt.total.usd, receipt.total.energy_wh)
    assert table[1]["cost_usd"] == f"{receipt.total.cost_nusd / 1e9:.9f}"
    assert listed[1]["time_utc"] == format_time(receipt.created_unix_ns)
    empty = io.StringIO()
    with RequestWriter(empty, "json"):
        pass
    assert json.loads(empty.getvalue()) == []


def test_a_table_of_many_requests_is_written_in_constant_memory(books: Books, shape, machine, clock) -> None:
    account = EngineAccount(shape, machine, ModelledMeter(machine, clock), clock=clock)
    cost, rate_id, many = account.close("r"), record_rate(books, machine), 20_000

    def write(connection) -> None:
        rows = [to_columns(record_of(replace(cost, request_id=f"r{i}"), rate_id)) for i in range(many)]
        connection.execute(insert(requests), rows)

    books.write_now(write)
    tracemalloc.start()
    with RequestWriter(open(os.devnull, "w"), "csv") as rows:
        each_request(books, rows.write)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 12e6, "600 bytes a row: less than the rows themselves would take"


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
    row = record_of(account.close("new"), 1)
    record_request(filled, row).result()
    before = reconcile(filled)
    record_request(filled, row).result()
    for other in (record_of(account.close("r0"), 1), replace(row, generated_tokens=9)):
        with pytest.raises(BooksError, match="other figures"):
            record_request(filled, other).result()
    assert reconcile(filled) == before
    assert before.holds


def test_replies_of_a_call_come_by_number_and_nothing_else_does(books: Books, shape, machine, clock) -> None:
    """Ids of other calls may begin alike; the tenth reply comes after the second."""
    account = EngineAccount(shape, machine, ModelledMeter(machine, clock), clock=clock)
    rate_id = record_rate(books, machine)
    for name in ("req_a-10", "req_a-2", "req_a-0", "req_ab-0", "cli-a-request-1", "cli-a-request-10"):
        record_request(books, record_of(account.close(name), rate_id)).result()
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


def test_a_cell_of_a_model_that_was_never_used_ends_with_a_word(books: Books, machine, clock) -> None:
    """There is no machine whose price could be named: no empty part is left after a semicolon."""
    with TrainingBill.open(books, ModelledMeter(machine, clock), RunInfo("bard"), run_id="bard-run"):
        clock.sleep(5 * MS)
    (model,) = statement(books, "bard").models
    table = render(model)
    assert "VARIABLE: inference" in table
    assert not [line for line in table.splitlines() if line.rstrip().endswith(";")]
