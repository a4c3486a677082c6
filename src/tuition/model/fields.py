"""Read values out of untrusted JSON objects: each has a type and a range, and an error that names the file.

Nothing from a model folder is trusted: a number may be a string, a count may be negative or enormous.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuition.core.errors import ModelError

MAX_COUNT = 2**31 - 1
"""Largest count any field may hold: what an index of a tensor can still address in every runtime."""
MAX_LAYERS = 4_096
"""Far above any model known, low enough that a damaged number cannot make us list names for hours."""

_MISSING = object()


@dataclass(frozen=True)
class Fields:
    """One JSON object of a file, read field by field. Raises: ModelError from every method."""

    path: Path
    table: Mapping[str, Any]

    def fail(self, key: str, wanted: str) -> ModelError:
        got = repr(self.table.get(key))[:80]
        return ModelError(
            self.path, f"{key} is {got}, wanted {wanted}", way_out="correct the file or use another model"
        )

    def count(self, key: str, default: Any = _MISSING, *, most: int = MAX_COUNT) -> int:
        """A whole number from 1 to `most`; `default` where the key is absent or null."""
        value = self.table.get(key)
        if value is None and default is not _MISSING:
            return default
        if type(value) is not int or not 1 <= value <= most:
            raise self.fail(key, f"a whole number from 1 to {most:,}")
        return value

    def optional_count(self, key: str) -> int | None:
        """A whole number, or None where the key is absent or null."""
        return None if self.table.get(key) is None else self.count(key)

    def positive(self, key: str, default: Any = _MISSING) -> float:
        """A finite number above zero; `default` where the key is absent or null."""
        value = self.table.get(key)
        if value is None and default is not _MISSING:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise self.fail(key, "a finite number above 0")
        try:
            return float(value)
        except OverflowError as error:
            raise self.fail(key, "a number that fits 64 bits") from error

    def optional_positive(self, key: str) -> float | None:
        return None if self.table.get(key) is None else self.positive(key)

    def flag(self, key: str, default: bool) -> bool:
        value = self.table.get(key)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.fail(key, "true or false")
        return value
