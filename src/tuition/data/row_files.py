"""Rows of any file that has rows: JSON lines, a JSON list, CSV, TSV, Parquet, Arrow.

In: `Source`s.  Out: numbered rows as dicts. A row that cannot be used comes as a `BadInput` in its place.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tuition.core.repeated_keys import RepeatedKeyError, without_repeats
from tuition.core.words import value_in_words
from tuition.data.csv_rows import csv_rows
from tuition.data.readers import BadInput, OpenSource, Row, json_rows
from tuition.data.sources import Source
from tuition.data.tables import table_rows

MAX_JSON_BYTES = 2**30
"""A JSON list has to be held whole."""

_TURN_FIELDS = ({"role", "content"}, {"from", "value"})
_BLANK = " \t\r\n"

Numbered = tuple[int, Row | BadInput, int]
"""Line or row, counted from 1; its fields; bytes of the file that were read so far."""


def source_rows(source: Source, columns: Sequence[str] | None = None) -> Iterator[Numbered]:
    """All rows of a file. `columns`: those to take where the file stores columns, of which the first must be
    there; None takes all. Raises: BadInput for a fault of the whole file."""
    if source.kind in ("parquet", "arrow"):
        done, number = 0.0, 0
        for number, row, share in table_rows(source.path, source.kind, columns):
            done = min(1.0, done + share)
            row = row if isinstance(row, BadInput) else {name: _present(value) for name, value in row.items()}
            yield number, row, int(source.num_bytes * done)
    else:
        number = 0
        with OpenSource(source) as opened:
            for number, row in _opened_rows(opened, source):
                yield number, row, opened.position
    if number == 0:
        raise BadInput("empty", "holds no rows")


def _present(value: Any) -> Any:
    """A value of a column without absent fields: in a table every struct has all fields of the others."""
    if isinstance(value, dict):
        return {name: _present(item) for name, item in value.items() if item is not None}
    return [_present(item) for item in value] if isinstance(value, list) else value


def _opened_rows(opened: OpenSource, source: Source) -> Iterator[tuple[int, Row | BadInput]]:
    if source.kind == "json":
        return _json_file_rows(opened, source)
    return json_rows(opened) if source.kind == "jsonl" else csv_rows(opened, source)


def _json_file_rows(opened: OpenSource, source: Source) -> Iterator[tuple[int, Row | BadInput]]:
    """Rows of a list, of the one list in an object, or of lines that are objects. Raises: BadInput."""
    text = _whole_text(opened)
    begin = _skip_blanks(text, 0)
    if begin == len(text):
        raise BadInput("empty", "is empty")
    first_line, _, rest = text[begin:].partition("\n")
    if text[begin] == "{" and rest.strip() and _is_object(first_line):
        with OpenSource(source) as again:
            yield from json_rows(again)
        return
    if text[begin] == "[":
        yield from _list_rows(text, begin)
        return
    value, end = _decode(text, begin)
    if not isinstance(value, dict):
        raise BadInput("bad JSON", f"holds {value_in_words(value)}, wanted a list of objects")
    if _skip_blanks(text, end) != len(text):
        raise BadInput("bad JSON", "holds something behind its first object", _line(text, end))
    lists = {name: at for name, at, item in _members(text, begin) if _is_list_of_rows(item)}
    if len(lists) == 1:
        yield from _list_rows(text, next(iter(lists.values())))
    elif lists:
        problem = f"holds several lists of rows ({', '.join(lists)})"
        raise BadInput("ambiguous field", problem, way_out="save each list as a separate file")
    else:
        line = _line(text, begin)
        yield line, _decode_row(text, begin, line)[0]


def _list_rows(text: str, begin: int) -> Iterator[tuple[int, Row | BadInput]]:
    """Items of the list that begins at `begin`, one at a time."""
    at, counted, line = begin + 1, 0, 1
    while True:
        at = _skip_blanks(text, at)
        if text[at : at + 1] == "]":
            return
        line += text.count("\n", counted, at)
        counted = at
        value, at = _decode_row(text, at, line)
        problem = f"an item of the list is {value_in_words(value)}, wanted an object"
        yield line, value if isinstance(value, dict | BadInput) else BadInput("bad JSON", problem, line)
        at = _skip_blanks(text, at)
        if text[at : at + 1] == ",":
            at += 1
        elif text[at : at + 1] != "]":
            raise BadInput("bad JSON", "is no JSON (wanted ',' or ']' after an item)", _line(text, at))


def _members(text: str, begin: int) -> Iterator[tuple[str, int, Any]]:
    """Names of an object that is known to be whole, where their values begin, and the values."""
    at = _skip_blanks(text, begin + 1)
    while text[at] != "}":
        name, at = _decode(text, at)
        at = _skip_blanks(text, _skip_blanks(text, at) + 1)
        value, end = _decode(text, at)
        yield name, at, value
        at = _skip_blanks(text, end)
        if text[at] == ",":
            at = _skip_blanks(text, at + 1)


def _is_list_of_rows(value: Any) -> bool:
    """Whether it is a list of objects, and not the turns of one conversation."""
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        return False
    return not any(fields <= item.keys() for fields in _TURN_FIELDS for item in value)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _decode_row(text: str, at: int, line: int) -> tuple[Any, int]:
    """Like `_decode`; an object that has a key twice comes as a BadInput."""
    try:
        return _decode(text, at, without_repeats)
    except RepeatedKeyError as error:
        bad = BadInput("ambiguous field", str(error), line, way_out=error.way_out)
        return bad, _decode(text, at)[1]


def _decode(
    text: str, at: int, hook: Callable[[list[tuple[str, Any]]], Row] | None = None
) -> tuple[Any, int]:
    """The JSON value at `at`, and where it ends. Raises: BadInput, and what `hook` raises."""
    try:
        return json.JSONDecoder(object_pairs_hook=hook).raw_decode(text, at)
    except json.JSONDecodeError as error:
        problem = f"is no JSON ({error.msg}, column {error.colno})"
        raise BadInput("bad JSON", problem, error.lineno) from None
    except RecursionError:
        raise BadInput("bad JSON", "is nested too deeply", _line(text, at)) from None


def _whole_text(opened: OpenSource) -> str:
    data = opened.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        problem = f"is a JSON file of more than {MAX_JSON_BYTES:,} bytes"
        raise BadInput("too long", problem, way_out="save it as .jsonl, one row a line")
    if (zero := data.find(b"\0")) >= 0:
        raise BadInput("binary", "is binary (it holds a zero byte)", data.count(b"\n", 0, zero) + 1)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"is no UTF-8 (byte 0x{data[error.start]:02x})"
        raise BadInput("bad UTF-8", problem, line, way_out="save it as UTF-8") from None


def _skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANK:
        at += 1
    return at


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
