"""From measured rows to medians, ratios and a table. No measuring here.

In: rows, each with model, precision, side, round and what.  Out: `Summary` rows and lines of text.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KEY = ("model", "precision", "what", "batch", "prompt", "generate")
"""What two sides must share to be compared."""

VALUE = {"decode": "tokens_per_s", "prefill": "tokens_per_s", "offline": "share", "prefix": "ratio",
         "deterministic": "price", "start": "seconds"}  # fmt: skip
"""The figure of each kind of row that is summed up; for the others every field stands for itself."""

EQUAL_BITS = 0.02
"""How far two sides' bits may be apart, as a share."""

OURS = "tuition"


@dataclass(frozen=True)
class Summary:
    """One side's figure in one comparison."""

    key: tuple[Any, ...]
    side: str
    median: float
    low: float
    high: float
    rounds: int

    def named(self) -> dict[str, Any]:
        fields = {name: value for name, value in zip(KEY, self.key, strict=True) if value is not None}
        return fields | {"side": self.side, "median": self.median, "low": self.low, "high": self.high,
                         "rounds": self.rounds}  # fmt: skip


def summarise(rows: Iterable[Mapping[str, Any]]) -> list[Summary]:
    """Median and range over the rounds, in the order in which rows first came."""
    found: dict[tuple[tuple[Any, ...], str], list[float]] = {}
    for row in rows:
        value = VALUE.get(row["what"])
        if value is not None:
            found.setdefault((key_of(row), row["side"]), []).append(float(row[value]))
    return [
        Summary(key, side, statistics.median(values), min(values), max(values), len(values))
        for (key, side), values in found.items()
    ]


def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in KEY)


def ratios(summaries: Iterable[Summary]) -> dict[tuple[tuple[Any, ...], str], float]:
    """(comparison, peer) -> our median over the peer's; above 1 we are faster. Starts are turned round."""
    summaries = list(summaries)
    ours = {each.key: each.median for each in summaries if each.side == OURS}
    found = {}
    for each in summaries:
        if each.side != OURS and each.key in ours and each.median > 0 and ours[each.key] > 0:
            ratio = ours[each.key] / each.median
            found[each.key, each.side] = 1 / ratio if each.key[KEY.index("what")] == "start" else ratio
    return found


def equal_bits(ours: float, theirs: float) -> bool:
    """Whether two sides move as many bits per parameter, within the tolerance."""
    return abs(ours / theirs - 1) <= EQUAL_BITS


def shares(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Our rows against the machine's limits, each against the limits measured in its own round.

    Decoding one sequence is held to the reading of as many bytes as the weights have; prefill to the matrix
    products of the number format that the weights are multiplied in (8 bits for int8 and int4, where each
    activation takes two passes, so that half of that rate is the most there can be).
    """
    limits = {(r["model"], r["precision"], r["round"]): r for r in rows if r["what"] == "limits"}
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        limit = limits.get((row["model"], row["precision"], row["round"]))
        if limit is None or row["side"] != OURS:
            continue
        if row["what"] == "decode" and row["batch"] == 1 and "bytes_per_s" in row:
            share, of = row["bytes_per_s"] / limit["read_bytes_per_s"], "memory bandwidth"
        elif row["what"] == "prefill" and "flops_per_s" in row:
            kind = row["precision"] if row["precision"] in ("float32", "bf16") else "int8"
            share, of = row["flops_per_s"] / limit["matrix_ops_per_s"][kind], f"{kind} matrix rate"
        else:
            continue
        found.setdefault((*key_of(row), of), []).append(share)
    return [
        {name: value for name, value in zip((*KEY, "of"), key, strict=True) if value is not None}
        | {"share": statistics.median(values), "rounds": len(values)}
        for key, values in found.items()
    ]


def table(summaries: Sequence[Summary], bits: Mapping[tuple[str, str, str], float]) -> list[str]:
    """Lines for the terminal. `bits`: (model, precision, side) -> bits per parameter."""
    compared = ratios(summaries)
    head = ("model", "precision", "what", "side", "median", "range", "bits", "ours is")
    lines: list[Sequence[str]] = [head]
    for each in summaries:
        model, precision, what, batch, prompt, generate = each.key
        name = what + (f" batch {batch}" if batch else "") + (f" at {prompt}" if prompt else "")
        name += f" + {generate}" if generate else ""
        held = bits.get((model, precision, each.side))
        own = bits.get((model, precision, OURS))
        mark = "" if held is None or own is None or equal_bits(own, held) else " (unequal)"
        ratio = compared.get((each.key, each.side))
        lines.append((
            model, precision, name, each.side, figure(each.median), f"{figure(each.low)}-{figure(each.high)}",
            "" if held is None else f"{held:.2f}{mark}", "" if ratio is None else f"{ratio:.2f}x",
        ))  # fmt: skip
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def figure(value: float) -> str:
    """Three figures that matter, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
