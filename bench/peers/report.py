"""From measured rows to medians, ratios and a table. No measuring here.

In: rows, each with model, precision, side, round and what.  Out: `Summary` rows and lines of text.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

KEY = ("model", "precision", "what", "batch", "prompt", "generate")
"""What two sides must share to be compared."""


@dataclass(frozen=True)
class Figure:
    """One number of a kind of row, summed up over the rounds."""

    column: str
    label: str
    """In the table, with its unit."""
    better: Literal["more", "less"]


FIGURES: dict[str, tuple[Figure, ...]] = {
    "decode": (
        Figure("tokens_per_s", "tokens/s", "more"),
        Figure("first_token_s", "first token, s", "less"),
        Figure("python_share", "Python between steps", "less"),
    ),
    "prefill": (
        Figure("tokens_per_s", "tokens/s", "more"),
        Figure("first_token_s", "first token, s", "less"),
    ),
    "start": (
        Figure("seconds", "process to first token, s", "less"),
        Figure("load_s", "load, s", "less"),
    ),
    "memory": (Figure("peak_bytes", "peak memory, bytes", "less"),),
    "prefix": (
        Figure("ratio", "first token, without / with", "more"),
        Figure("first_s", "first token without, s", "less"),
        Figure("second_s", "first token with, s", "less"),
    ),
    "offline": (
        Figure("share_of_full", "share of a full static batch", "more"),
        Figure("share", "share of a static batch as wide as it was", "more"),
        Figure("tokens_per_s", "tokens/s", "more"),
        Figure("python_share", "Python between steps", "less"),
    ),
    "deterministic": (Figure("price", "price", "less"),),
    "quality": (
        Figure("perplexity", "perplexity", "less"),
        Figure("log_ratio", "log of perplexity to bf16's", "less"),
        Figure("kl", "KL to bf16, nats", "less"),
    ),
}
"""Of rows of other kinds (limits) every field stands for itself. A row may lack a figure."""

RATED = ("decode", "prefill", "start", "memory")
"""Kinds of rows in which sides are compared by a ratio."""

EQUAL_BITS = 0.02
"""How far two sides' bits may be apart, as a share."""

OURS = "tuition"


@dataclass(frozen=True)
class Summary:
    """One side's figure in one comparison."""

    key: tuple[Any, ...]
    figure: Figure
    side: str
    median: float
    low: float
    high: float
    rounds: int

    def named(self) -> dict[str, Any]:
        fields = {name: value for name, value in zip(KEY, self.key, strict=True) if value is not None}
        return fields | {"figure": self.figure.column, "side": self.side, "median": self.median,
                         "low": self.low, "high": self.high, "rounds": self.rounds}  # fmt: skip


def summarise(rows: Iterable[Mapping[str, Any]]) -> list[Summary]:
    """Median and range over the rounds, in the order in which rows first came."""
    found: dict[tuple[tuple[Any, ...], Figure, str], list[float]] = {}
    for row in rows:
        for figure in FIGURES.get(row["what"], ()):
            if row.get(figure.column) is not None:
                found.setdefault((key_of(row), figure, row["side"]), []).append(float(row[figure.column]))
    return [
        Summary(key, figure, side, statistics.median(values), min(values), max(values), len(values))
        for (key, figure, side), values in found.items()
    ]


def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in KEY)


def ratios(summaries: Iterable[Summary]) -> dict[tuple[tuple[Any, ...], Figure, str], float]:
    """(comparison, figure, peer) -> how many times better our median is: above 1 we are ahead."""
    summaries = list(summaries)
    ours = {(each.key, each.figure): each.median for each in summaries if each.side == OURS}
    found = {}
    for each in summaries:
        own = ours.get((each.key, each.figure), 0.0)
        if each.side == OURS or each.key[KEY.index("what")] not in RATED or own <= 0 or each.median <= 0:
            continue
        ratio = own / each.median
        found[each.key, each.figure, each.side] = ratio if each.figure.better == "more" else 1 / ratio
    return found


def equal_bits(ours: float, theirs: float) -> bool:
    """Whether two sides move as many bits per parameter, within the tolerance."""
    return abs(ours / theirs - 1) <= EQUAL_BITS


def shares(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Our rows against the machine's limits, each against the limits measured in its own round.

    Decoding one sequence is held to the reading of as many bytes as the weights have; prefill to the matrix
    products of the number format that the weights are multiplied in (8 bits for int8 and int4).
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
    lines: list[Sequence[str]] = [
        ("model", "precision", "what", "side", "figure", "median", "range", "bits", "ours is")
    ]
    for each in summaries:
        model, precision = each.key[:2]
        held, own = bits.get((model, precision, each.side)), bits.get((model, precision, OURS))
        mark = "" if held is None or own is None or equal_bits(own, held) else " (unequal)"
        ratio = compared.get((each.key, each.figure, each.side))
        lines.append((
            model, precision, work(each.key), each.side, each.figure.label, number(each.median),
            f"{number(each.low)}-{number(each.high)}", "" if held is None else f"{held:.2f}{mark}",
            "" if ratio is None else f"{ratio:.2f}x",
        ))  # fmt: skip
    return columns(lines)


def work(key: Sequence[Any]) -> str:
    """What was done, in words: `decode batch 16 at 128 + 64`."""
    _, _, what, batch, prompt, generate = key
    name = what + (f" batch {batch}" if batch else "") + (f" at {prompt}" if prompt else "")
    return name + (f" + {generate}" if generate else "")


def columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells under each other."""
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def number(value: float) -> str:
    """Three figures that matter, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
