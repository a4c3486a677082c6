"""Units: parse what people write, print what people read.

Stored quantities are integers: time in ns, energy in uJ, money in nUSD (billionths of a US dollar).
"""

import math
import re
import time
from datetime import UTC, datetime

from tuition.core.errors import SettingsError

NS_PER_S = 1_000_000_000
UJ_PER_J = 1_000_000
UJ_PER_WH = 3_600 * UJ_PER_J
NUSD_PER_USD = 1_000_000_000

_DURATION_S = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
_SIZE_BYTES = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")


def _parse(text: str, units: dict[str, float], field: str, example: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2].lower() not in units:
        raise SettingsError(
            field, got=text, wanted=f"a number with a unit ({', '.join(units)}), like {example}"
        )
    return float(match[1]) * units[match[2].lower()]


def parse_duration_s(text: str, field: str = "duration") -> float:
    """Seconds in a text like `4min` or `1.5h`. The unit is required. Raises: SettingsError."""
    seconds = _parse(text, _DURATION_S, field, "4min")
    if seconds <= 0:
        raise SettingsError(field, got=text, wanted="more than zero, like 4min")
    return seconds


def parse_time_ns(text: str, field: str = "time") -> int:
    """Unix ns of `2026-11-01`, `2026-11-01T14:30` (UTC unless it says otherwise), or `7d`: that long ago.

    Raises: SettingsError.
    """
    if _QUANTITY.fullmatch(text):
        return time.time_ns() - round(parse_duration_s(text, field) * NS_PER_S)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        wanted = "a date like 2026-11-01, a time like 2026-11-01T14:30, or 7d for that long ago"
        raise SettingsError(field, got=text, wanted=wanted) from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000) * 1_000_000


def format_time(unix_ns: int) -> str:
    """ISO 8601 in UTC, to the millisecond: `2026-11-30T19:20:33.512Z`."""
    return (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix_ns // NS_PER_S))
        + f".{unix_ns // 10**6 % 1000:03d}Z"
    )


def parse_bytes(text: str, field: str = "size") -> int:
    """Bytes in a text like `500MB` (10^6) or `2GiB` (2^30). The unit is required. Raises: SettingsError."""
    return int(_parse(text, {unit: float(size) for unit, size in _SIZE_BYTES.items()}, field, "2GiB"))


def format_duration(seconds: float) -> str:
    """`4 ms`, `12.3 ms`, `1.00 s`, `12.3 s`, `3 min 07 s`, `2 h 05 min`."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 0.9995:
        return f"{_three_digits(seconds * 1e3)} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{_three_digits(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min"


def format_count(number: float) -> str:
    """`812`, `4.9 k`, `1.2 M`, `134.5 M`, `7.0 G`."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number:,.0f}"


def format_bytes(number: float) -> str:
    """`812 B`, `4.7 MiB`, `1.1 GiB`."""
    for size, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(number) >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number:,.0f} B"


def format_usd(nusd: int) -> str:
    """US dollars with enough digits to show small sums: `$12.34`, `$0.00000412`."""
    usd = nusd / NUSD_PER_USD
    if abs(usd) >= 1:
        return f"${usd:,.2f}"
    if nusd == 0:
        return "$0"
    digits = 2
    while digits < 9 and abs(usd) * 10 ** (digits - 2) < 1:
        digits += 1
    return f"${usd:.{digits}f}"


def format_energy(energy_uj: int | None) -> str:
    """`0.0042 Wh`, `1.9 Wh`, `12.3 kWh`, `4.5 MWh`; `unknown` when nothing was measured or modelled."""
    return "unknown" if energy_uj is None else format_wh(energy_uj / UJ_PER_WH)


def format_wh(watt_hours: float) -> str:
    """Energy to three digits, in the unit that gives a short number."""
    for size, unit in ((1e6, "MWh"), (1e3, "kWh")):
        if abs(watt_hours) >= 0.9995 * size:
            return f"{_three_digits(watt_hours / size)} {unit}"
    return f"{_three_digits(watt_hours)} Wh"


def format_grams(grams: float) -> str:
    """Mass to three digits: `0.0012 g`, `12.3 kg`, `4.5 t`."""
    for size, unit in ((1e6, "t"), (1e3, "kg")):
        if abs(grams) >= 0.9995 * size:
            return f"{_three_digits(grams / size)} {unit}"
    return f"{_three_digits(grams)} g"


def _three_digits(number: float) -> str:
    """Three significant digits, without an exponent: `0.00000123`, `4.5`, `999`, `1,230`."""
    if number == 0 or not math.isfinite(number):
        return f"{number:.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(number))))
    text = f"{number:,.{digits}f}"
    if digits and abs(float(text.replace(",", ""))) >= 10 ** (3 - digits):  # rounding filled a place
        text = f"{number:,.{digits - 1}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
