"""Requests for programs: one row each, as CSV or JSON, with stable names that end in their units.

In: rows of the table `requests`.  Out: text, written row by row in constant memory. The names are those of
`core/request_record`, after the figures that most programs want.
"""

import csv
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Self, TextIO

from tuition.core.request_record import stored_fields, to_columns
from tuition.core.units import NUSD_PER_USD, UJ_PER_WH, format_time
from tuition.ledger.render import provenance
from tuition.ledger.sheets import RequestReceipt

FIRST = (
    "time_utc", "request_id", "model", "version", "api_key_id", "prompt_tokens", "cached_tokens",
    "generated_tokens", "cost_usd", "energy_wh", "carbon_g_co2e", "cost_basis", "machine",
)  # fmt: skip
"""The most used figures, in common units, and how the hourly price is known."""

COLUMNS = [column for each in stored_fields() for column in each.columns if column != "id"]

FIELDS = (*FIRST, *(name for name in COLUMNS if name not in FIRST))


class RequestWriter:
    """Writes rows as they come; a JSON array is closed at the end of `with`."""

    def __init__(self, file: TextIO, format: Literal["json", "csv"]) -> None:
        self._file, self._format = file, format
        self._csv = csv.DictWriter(file, FIELDS, lineterminator="\n")
        self._before = "[\n"

    def write(self, row: Mapping[Any, Any], machine: Mapping[str, Any]) -> None:
        """One row of `requests`, and the machine's table of its rate."""
        values = flat(row, machine)
        if self._format == "csv":
            values["cost_usd"] = (
                f"{row['total_cost_nusd'] / NUSD_PER_USD:.9f}"  # no exponents in a spreadsheet
            )
            self._csv.writerow(values)
            return
        self._file.write(self._before + json.dumps(values, ensure_ascii=False, allow_nan=False))
        self._before = ",\n"

    def write_receipt(self, receipt: RequestReceipt) -> None:
        """The same of a receipt."""
        self.write(to_columns(receipt), receipt.machine)

    def __enter__(self) -> Self:
        if self._format == "csv":
            self._csv.writeheader()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._format == "json" and error is None:
            self._file.write("[]\n" if self._before == "[\n" else "\n]\n")


def request_object(receipt: RequestReceipt) -> dict[str, Any]:
    """The fields of one receipt."""
    return flat(to_columns(receipt), receipt.machine)


def flat(row: Mapping[Any, Any], machine: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of a row."""
    energy_uj = row["total_energy_uj"]
    energy_wh = None if energy_uj is None else energy_uj / UJ_PER_WH
    carbon = None if energy_wh is None else energy_wh / 1e3 * machine["pue"] * machine["carbon_g_per_kwh"]
    values: dict[str, Any] = {
        "time_utc": format_time(row["created_unix_ns"]),
        "request_id": row["id"],
        "cost_usd": row["total_cost_nusd"] / NUSD_PER_USD,
        "energy_wh": energy_wh,
        "carbon_g_co2e": carbon,
        "cost_basis": provenance(machine, "usd_per_hour"),
        "machine": machine["name"],
    }
    return {name: values[name] if name in values else row[name] for name in FIELDS}
