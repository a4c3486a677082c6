"""JSON objects that have a key twice are refused: readers disagree about which of the two counts.

In: pairs, as `json.loads(..., object_pairs_hook=without_repeats)` passes them.  Out: a dict.
"""

from typing import Any


class RepeatedKeyError(ValueError):
    """A key of a JSON object that occurs twice."""

    way_out = "remove one of them"

    def __init__(self, key: str) -> None:
        super().__init__(f"has the key {key[:120]!r} twice, and it is not clear which one counts")


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises: RepeatedKeyError."""
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RepeatedKeyError(key)
            seen.add(key)
    return table
