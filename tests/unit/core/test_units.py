"""Units: what people write is understood or refused, and a split never loses a unit."""

import pytest

from tuition.core.errors import SettingsError
from tuition.core.units import (
    format_bytes,
    format_count,
    format_duration,
    format_energy,
    format_usd,
    parse_bytes,
    parse_duration_s,
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
