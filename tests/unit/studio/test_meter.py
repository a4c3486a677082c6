"""The meter says what it knows, how it is known, and nothing more."""

import time

import pytest

from tuition.studio.api import BusyHour, Cost, Piece
from tuition.studio.meter import Meter, Totals
from tuition.studio.reply import render_readings


def texts(meter: Meter) -> list[str]:
    return [reading.text for reading in meter.readings()]


def test_while_a_reply_comes_the_meter_runs_and_says_that_it_estimates() -> None:
    """Half an hour at 2 dollars and 30 Wh an hour; the bill then takes the estimate's place."""
    meter = Meter(BusyHour(usd=2.0, energy_wh=30.0))
    meter.started_s = time.monotonic() - 1_800
    meter.take(Piece(text="a", num_generated=1))
    shown = {reading.text: reading for reading in meter.readings()}
    assert {"≈ 15.00 Wh", "≈ $1.00"} <= shown.keys()
    assert all("Estimated" in shown[text].hint for text in shown if "Wh" in text or "$" in text)
    meter.end()
    assert "≈ $1.00" in texts(meter), "a reply that was stopped waits for its bill"
    meter.take(Piece(cost=Cost(0.7, 9.0, "rapl", "user")))
    assert {"9.00 Wh", "$0.70"} <= set(texts(meter))
    assert not any("≈" in text for text in texts(meter))


def test_a_reply_that_never_came_is_not_estimated() -> None:
    meter = Meter(BusyHour(usd=2.0, energy_wh=30.0))
    meter.end()
    assert not any("≈" in text for text in texts(meter))


def test_where_the_server_names_no_price_money_is_not_made_up() -> None:
    meter = Meter()
    meter.take(Piece(text="a", num_prompt_tokens=12, num_generated=1))
    assert texts(meter)[0] == "1 token"
    assert "metering" in texts(meter)
    assert not any("$" in text or "Wh" in text for text in texts(meter))


def test_a_finished_reply_shows_cost_and_how_it_is_known() -> None:
    meter = Meter()
    meter.take(Piece(text="ab", num_generated=2, cost=Cost(0.00000412, 0.0021, "modelled", "assumed")))
    meter.end()
    marks = {reading.kind: (reading.text, reading.mark) for reading in meter.readings()}
    assert marks["energy"] == ("0.0021 Wh", "modelled")
    assert marks["money"] == ("$0.0000041", "assumed")


def test_energy_that_nobody_measured_is_unknown_and_not_zero() -> None:
    meter = Meter()
    meter.take(Piece(num_generated=2, cost=Cost(0.1, None, None, None)))
    assert "energy unknown" in texts(meter)
    assert not any(text.startswith("0 Wh") for text in texts(meter))
    totals = Totals()
    totals.add(meter)
    assert totals.energy_wh is None


def test_totals_add_up() -> None:
    totals = Totals()
    for _ in range(3):
        meter = Meter()
        meter.take(Piece(num_prompt_tokens=10, num_generated=5, cost=Cost(0.001, 0.5, "rapl", "user")))
        totals.add(meter)
    assert (totals.num_tokens, totals.num_replies) == (45, 3)
    assert totals.cost_usd == pytest.approx(0.003)
    assert totals.energy_wh == pytest.approx(1.5)


def test_figures_are_escaped() -> None:
    meter = Meter()
    meter.take(Piece(num_generated=1, cost=Cost(0.1, 0.1, "<script>", "<script>")))
    assert "<script>" not in render_readings(meter.readings())
