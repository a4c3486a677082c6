"""Units: parse what people write, print what people read.

Stored quantities are integers: time in ns, energy in uJ, money in nUSD (billionths of a US dollar).
"""

import re

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


def parse_bytes(text: str, field: str = "size") -> int:
    """Bytes in a text like `500MB` (10^6) or `2GiB` (2^30). The unit is required. Raises: SettingsError."""
    return int(_parse(text, {unit: float(size) for unit, size in _SIZE_BYTES.items()}, field, "2GiB"))


def format_duration(seconds: float) -> str:
    """`12.3 ms`, `4.2 s`, `3 min 07 s`, `2 h 05 min`."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
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
    """US dollars with enough digits that a small sum does not read as nothing: `$12.34`, `$0.00000412`."""
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
    """Watt-hours, `1.9 Wh` or `0.0042 Wh`; `unknown` when nothing was measured or modelled."""
    return "unknown" if energy_uj is None else f"{energy_uj / UJ_PER_WH:.3g} Wh"
