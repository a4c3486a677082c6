"""Units: what people write is understood or refused, and a split never loses a unit."""

import time

import pytest

from tuition.core.errors import SettingsError
from tuition.core.units import (
    format_bytes,
    format_count,
    format_duration,
    format_energy,
    format_grams,
    format_time,
    format_usd,
    format_wh,
    parse_bytes,
    parse_duration_s,
    parse_time_ns,
)


@pytest.mark.parametrize(
    ("text", "seconds"), [("4min", 240), ("1.5h", 5400), ("90 s", 90), ("250ms", 0.25), ("2D", 172_800)]
)
def test_durations_with_a_unit_are_read(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["4", "", "min", "4 minutes", "-4min", "0s", "1e3s", "4min 3s", "nan s", "٤min"]
)
def test_durations_without_a_clear_meaning_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="budget"):
        parse_duration_s(text, "budget")


def test_sizes_know_both_kinds_of_prefix() -> None:
    assert (parse_bytes("2GB"), parse_bytes("2GiB"), parse_bytes("512b")) == (2_000_000_000, 2 << 30, 512)
    with pytest.raises(SettingsError):
        parse_bytes("2")


def test_small_sums_do_not_read_as_nothing() -> None:
    assert format_usd(4_120) == "$0.00000412"
    assert format_usd(1) == "$0.000000001"
    assert format_usd(12_340_000_000) == "$12.34"
    assert format_usd(0) == "$0"


def test_formats_are_for_people() -> None:
    assert format_duration(187) == "3 min 07 s"
    assert format_duration(59.96) == "60 s"
    assert format_duration(0.0123) == "12.3 ms"
    assert format_count(134_515_008) == "134.5 M"
    assert format_bytes(4_928_307) == "4.7 MiB"
    assert format_energy(None) == "unknown"
    assert format_energy(3_600_000_000) == "1 Wh"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.004, "4 ms"), (0.0000123, "0.0123 ms"), (0.9994, "999 ms"), (0.99951, "1.00 s"), (1.0, "1.00 s"),
        (4.2, "4.20 s"), (9.999, "10 s"), (59.7, "59.7 s"), (60.0, "1 min 00 s"), (-0.5, "-500 ms"),
        (0.0, "0 ms"), (7_200.0, "2 h 00 min"),
    ],
)  # fmt: skip
def test_a_duration_has_no_exponent_and_reads_as_something(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("watt_hours", "text"),
    [
        (12_300, "12.3 kWh"), (999.4, "999 Wh"), (999.9, "1 kWh"), (0.0042, "0.0042 Wh"), (1.9, "1.9 Wh"),
        (0.00000123, "0.00000123 Wh"), (4.5e6, "4.5 MWh"), (0, "0 Wh"), (2.5e9, "2,500 MWh"),
    ],
)  # fmt: skip
def test_energy_has_no_exponent(watt_hours: float, text: str) -> None:
    assert format_wh(watt_hours) == text
    assert format_energy(round(watt_hours * 3.6e9)) == text


def test_mass_has_no_exponent() -> None:
    assert [format_grams(g) for g in (0.000012, 1_500, 0)] == ["0.000012 g", "1.5 kg", "0 g"]


@pytest.mark.parametrize("text", ["2026-11-01", "2026-11-01T00:00", "2026-11-01 01:00+01:00"])
def test_a_time_is_utc_unless_it_says_otherwise(text: str) -> None:
    assert parse_time_ns(text) == 1_793_491_200 * 10**9
    assert format_time(parse_time_ns(text)) == "2026-11-01T00:00:00.000Z"


def test_a_time_may_be_so_long_ago_and_anything_else_is_refused() -> None:
    assert abs(time.time_ns() - 86_400 * 10**9 - parse_time_ns("24h")) < 10**9
    for bad in ("yesterday", "2026-13-01", "7", ""):
        with pytest.raises(SettingsError, match="since"):
            parse_time_ns(bad, "since")
