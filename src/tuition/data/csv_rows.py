"""Rows of CSV and TSV files, whatever separates their cells.

In: `Source`s.  Out: the separator; numbered rows as dicts. Spreadsheets write ';' where ',' is the decimal
sign, so the separator is found in the file: from its first line, where that is not clear from its rows, or
from a line `sep=;` before them, as Excel has it.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Literal

from tuition.data.readers import MAX_LINE_BYTES, BadInput, OpenSource, Row
from tuition.data.sources import Source

Separator = Literal[",", ";", "\t", "|"]
_SEPARATORS: tuple[Separator, ...] = (",", ";", "\t", "|")
_NAMES = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'"}
_EXPECTED: dict[str, Separator] = {"csv": ",", "tsv": "\t"}
_SAID = re.compile(r'"?sep=([,;\t|])"?\s*', re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_SNIFFED_LINES, _SNIFFED_CHARS = 500, 2**20
_WAY_OUT = 'put cells with quotes or line ends into quotes, and double the quotes inside ("")'


def separator_of(source: Source) -> Separator:
    """What separates the cells of a file. Raises: BadInput where it could be one or another."""
    lines, num_chars = [], 0
    with OpenSource(source) as opened:
        for line in _text_lines(opened):
            num_chars += len(line)
            if lines and (len(lines) == _SNIFFED_LINES or num_chars > _SNIFFED_CHARS):
                break
            lines.append(line)
    if not lines:
        return _EXPECTED[source.kind]
    if said := _SAID.fullmatch(lines[0]):
        return next(sign for sign in _SEPARATORS if sign == said[1])
    first = _QUOTED.sub("", "".join(lines)).partition("\n")[0]
    found = [sign for sign in _SEPARATORS if sign in first]
    if len(found) < 2:
        return found[0] if found else _EXPECTED[source.kind]
    fits = {sign: _fitting(lines, sign) for sign in found}
    for least in (1.0, 1e-9):  # all rows fit, or some
        likely = [sign for sign in found if fits[sign] >= least]
        if len(likely) == 1:
            return likely[0]
    named = " and ".join(_NAMES[sign] for sign in found)
    way_out = "put names that hold one of them into quotes, or write the line sep=; (or sep=,) before it"
    raise BadInput("ambiguous field", f"its first line holds {named}: each could separate columns", 1,
                   way_out=way_out)  # fmt: skip


def unusual_separator(source: Source) -> str | None:
    """The separator in words, where it is not the one that the name of the file says."""
    if source.kind not in _EXPECTED:
        return None
    try:
        found = separator_of(source)
    except BadInput:  # named when the rows are read
        return None
    return None if found == _EXPECTED[source.kind] else _NAMES[found]


def csv_rows(opened: OpenSource, source: Source) -> Iterator[tuple[int, Row | BadInput]]:
    """The line where a row begins, and its cells by the names of the first line. Raises: BadInput."""
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _text_lines(opened)
    head = list(islice(lines, 1))
    num_said = sum(_SAID.fullmatch(line) is not None for line in head)
    rest = lines if num_said else chain(head, lines)
    reader = csv.reader(rest, delimiter=separator_of(source), strict=True)
    try:
        names = next(reader, None)
    except csv.Error as error:
        raise BadInput("bad CSV", f"is no CSV ({error})", 1, way_out=_WAY_OUT) from None
    _check_header(names)
    while True:
        number = num_said + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield number, BadInput("bad CSV", f"is no CSV ({error})", number, way_out=_WAY_OUT)
            continue
        if cells is None:
            return
        if cells:
            yield number, _csv_row(names or [], cells, number)


def _fitting(lines: Sequence[str], separator: Separator) -> float:
    """Share of the rows, in the first lines, that have as many cells as the first one."""
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    lengths = []
    while True:
        try:
            cells = next(reader, None)
        except csv.Error:
            lengths.append(0)
            continue
        if cells is None:
            break
        if cells:
            lengths.append(len(cells))
    if len(lines) == _SNIFFED_LINES:
        lengths.pop()  # it may be cut
    return sum(length == lengths[0] for length in lengths[1:]) / max(1, len(lengths) - 1)


def _text_lines(opened: OpenSource) -> Iterator[str]:
    """Lines, with bytes that are no UTF-8 marked: only the row that holds them is bad."""
    encoding = "utf-8-sig"
    while line := opened.read_line(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise BadInput("too long", f"a line is longer than {MAX_LINE_BYTES:,} bytes")
        yield line.decode(encoding, "surrogateescape")
        encoding = "utf-8"


def _check_header(names: list[str] | None) -> None:
    """Raises: BadInput unless the first line names columns."""
    if not names:
        raise BadInput("empty", "is empty" if names is None else "has no names of columns", 1)
    for name in names:
        if not name.strip():
            raise BadInput("bad CSV", "has a column without a name", 1, way_out="name it in the first line")
        if names.count(name) > 1:
            problem = f"has {names.count(name)} columns named {name!r}"
            raise BadInput("ambiguous field", problem, 1, way_out="rename all but one of them")


def _csv_row(names: list[str], cells: list[str], number: int) -> Row | BadInput:
    if len(cells) != len(names):
        problem = f"has {len(cells)} cells, the first line names {len(names)}"
        return BadInput("bad CSV", problem, number, way_out=_WAY_OUT)
    for name, cell in zip(names, cells, strict=True):
        if "\0" in cell:
            return BadInput("binary", f"the field {name!r} is binary (it holds a zero byte)", number)
        if not cell.isascii() and (at := next((c for c in cell if "\ud800" <= c <= "\udfff"), None)):
            problem = f"the field {name!r} is no UTF-8 (byte 0x{ord(at) & 0xFF:02x})"
            return BadInput("bad UTF-8", problem, number, way_out="save it as UTF-8")
    return dict(zip(names, cells, strict=True))
