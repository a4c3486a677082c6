"""Parse an untrusted JSON body: every problem with it is an error of the caller that says what is wrong.

In: raw bytes of a request.  Out: plain Python values, finite numbers, valid Unicode, bounded depth, no key
twice.
"""

import json
import math
from typing import Any

from tuition.core.errors import RequestError

MAX_DEPTH = 64
_FIELD = "body"


def parse_body(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`. Raises: RequestError naming what is wrong."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(_FIELD, f"byte {error.start} is not valid UTF-8") from None
    if text.startswith("\ufeff"):
        raise RequestError(_FIELD, "starts with a byte order mark; send plain UTF-8")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise RequestError(_FIELD, f"is not valid JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise RequestError(_FIELD, f"is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:  # int() refuses thousands of digits
        raise RequestError(_FIELD, "holds a number with too many digits") from None
    if not isinstance(value, dict):
        raise RequestError(_FIELD, "wanted a JSON object")
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    if b"\\u" in raw:  # only an escape can hold half a character
        _check_text(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise RequestError(_printable(twice), "is given twice")
    return table


def _refuse_constant(name: str) -> Any:
    raise RequestError(_FIELD, f"{name} is not JSON; wanted a finite number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise RequestError(_FIELD, "holds a number too large for a float")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise RequestError(_FIELD, f"is nested deeper than {MAX_DEPTH} levels")
        deeper: list[Any] = []
        for item in level:
            children = item.values() if isinstance(item, dict) else item
            deeper += [child for child in children if type(child) in (dict, list)]
        level = deeper


def _check_text(value: Any) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack += item.keys()
            stack += item.values()
        elif isinstance(item, list):
            stack += item
        elif isinstance(item, str):
            try:
                item.encode("utf-8")
            except UnicodeEncodeError:
                raise RequestError(_FIELD, "holds half of a surrogate pair, which is not text") from None


def _printable(text: str) -> str:
    """A key as it may stand in an error message: short, and valid Unicode."""
    return text.encode("utf-8", "replace").decode("utf-8")[:64]
