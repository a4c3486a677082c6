"""JSON in columns of the books, read with an error that names the row."""

import json
from typing import Any

from tuition.core.errors import BooksError


def stored_json(text: str, place: str, column: str) -> Any:
    """What a column holds. Raises: BooksError if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise BooksError(
            f"{place} of the books has no valid JSON in {column} ({error}); something other than tuition "
            "has changed it: put back a copy of the books from before"
        ) from error


def machine_of(text: str, rate_id: int) -> dict[str, Any]:
    """The machine's table of a rate. Raises: BooksError if it is not one."""
    table = stored_json(text, f"rate {rate_id}", "machine_json")
    missing = sorted(REQUIRED - table.keys()) if isinstance(table, dict) else sorted(REQUIRED)
    if missing:
        raise BooksError(
            f"rate {rate_id} of the books lacks {', '.join(missing)} in machine_json; something other than "
            "tuition has changed it: put back a copy of the books from before"
        )
    return table


REQUIRED = frozenset({"name", "usd_per_hour", "usd_per_kwh", "pue", "electricity_in_rate"})
"""What every version of this program has written, and the bill cannot do without."""
