"""Read the catalogue: CSV files beside this module, one dated row per fact, each with its source.

A new machine or price is a new row; an empty cell is unknown, never 0.
"""

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent

Row = Mapping[str, str]


@cache
def read_rows(name: str) -> tuple[Row, ...]:
    """All rows of `<name>.csv`, in the order of the file."""
    with open(FOLDER / f"{name}.csv", newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def find_row(name: str, device_name: str) -> Row | None:
    """The row whose `match` words all occur in `device_name`; the one with the most words wins.

    Words are compared without regard to case, `(R)`, `(TM)`, hyphens and spaces around them.
    """
    words = _words(device_name)
    found = [row for row in read_rows(name) if set(_words(row["match"])) <= set(words)]
    return max(found, key=lambda row: len(_words(row["match"])), default=None)


def _words(text: str) -> tuple[str, ...]:
    for noise in ("(R)", "(TM)", "(r)", "(tm)"):
        text = text.replace(noise, " ")
    return tuple(text.lower().replace("-", " ").split())


def number(row: Row, column: str) -> float | None:
    """The number in a cell, or None where it is empty."""
    return float(row[column]) if row[column] else None


def assumption(name: str) -> tuple[float, str]:
    """Value and source of one row of `assumptions.csv`."""
    row = next(row for row in read_rows("assumptions") if row["name"] == name)
    return float(row["value"]), f"{row['source']} ({row['date']})"
