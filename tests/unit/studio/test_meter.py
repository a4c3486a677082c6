"""The meter says what it knows, how it is known, and nothing more."""

import time

from tuition.client.api import BusyHour
from tuition.client.reply import Cost, Piece
from tuition.studio.meter import Meter, total_readings
from tuition.studio.reply import render_readings


def texts(meter: Meter) -> list[str]:
    return [reading.text for reading in meter.readings()]


def test_while_a_reply_comes_the_meter_runs_and_says_that_it_estimates() -> None:
    """Half an hour at 2 dollars and 30 Wh an hour; the bill then takes the estimate's place."""
    meter = Meter(busy_hour=BusyHour(usd=2.0, energy_wh=30.0))
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
    meter = Meter(busy_hour=BusyHour(usd=2.0, energy_wh=30.0))
    meter.end()
    assert not any("≈" in text for text in texts(meter))


def test_where_the_server_names_no_price_money_is_not_made_up() -> None:
    meter = Meter()
    meter.take(Piece(text="a", num_prompt_tokens=12, num_generated=1))
    assert texts(meter)[0] == "12 in, 1 out"
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
    meter.take(Piece(num_prompt_tokens=9, num_generated=2, cost=Cost(0.1, None, None, None)))
    assert "energy unknown" in texts(meter)
    assert not any(text.startswith("0 Wh") for text in texts(meter))
    totals = [reading.text for reading in total_readings([meter.reply])]
    assert totals == ["Total: 9 in, 2 out", "$0.10"]


def test_the_total_is_the_sum_of_what_stands_under_the_replies() -> None:
    meters = [Meter() for _ in range(3)]
    for meter in meters:
        meter.take(Piece(num_prompt_tokens=10, num_generated=5, cost=Cost(0.001, 0.5, "rapl", "user")))
        assert texts(meter)[0] == "10 in, 5 out"
    totals = [reading.text for reading in total_readings(meter.reply for meter in meters)]
    assert totals == ["Total: 30 in, 15 out", "1.50 Wh", "$0.0030"]
    assert total_readings([]) == []


def test_figures_are_escaped() -> None:
    meter = Meter()
    meter.take(Piece(num_generated=1, cost=Cost(0.1, 0.1, "<script>", "<script>")))
    assert "<script>" not in render_readings(meter.readings())
