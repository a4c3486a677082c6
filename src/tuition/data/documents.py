"""Documents, read from files without ever holding more than a piece of one.

In: `DataSettings`.  Out: `Document`s. What cannot be taught is named with file and line, or left out and
counted.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuition.core.errors import DataError
from tuition.data.corpora import demo_corpus
from tuition.data.settings import DataSettings
from tuition.data.sources import Source, find_sources
from tuition.data.tables import iter_table

PIECE_CHARS = 2**18
"""A longer document comes in pieces, cut at a line's end where there is one."""

MAX_LINE_BYTES = 2**28
"""A row of JSON has to be held whole."""

_SKIP_HINT = "mend it, or set on_bad to skip"


@dataclass(frozen=True, slots=True)
class Document:
    """A text to learn from, or a piece of one."""

    id: str
    """Its title, or the file and line that it came from."""
    text: str
    path: Path
    line: int | None = None
    """Where rows are documents: its line or row, counted from 1."""
    part: int = 0
    """Pieces of one document count from 0."""


@dataclass
class Counts:
    """What was read and what was left out; kept in the run's record."""

    num_documents: int = 0
    num_bytes: int = 0
    """UTF-8 bytes of the texts."""
    read_bytes: int = 0
    """Bytes of the files."""
    skipped: dict[str, int] = field(default_factory=dict)
    """How many were left out, by reason."""
    examples: list[str] = field(default_factory=list)
    """The first few that were left out, with file and line."""

    @property
    def num_skipped(self) -> int:
        return sum(self.skipped.values())


class _Bad(Exception):  # noqa: N818 - a finding on its way to the user's choice, not an error yet
    def __init__(self, reason: str, problem: str, line: int | None = None) -> None:
        self.reason, self.problem, self.line = reason, problem, line


def sources_of(settings: DataSettings) -> list[Source]:
    """The files of the corpus that `settings` ask for."""
    return list(demo_corpus(settings.demo).sources) if settings.demo else find_sources(settings)


def iter_documents(
    settings: DataSettings, counts: Counts | None = None, sources: list[Source] | None = None
) -> Iterator[Document]:
    """All documents, in the same order every time. `counts` is filled as they come. Raises: DataError."""
    counts = counts if counts is not None else Counts()
    for source in sources if sources is not None else sources_of(settings):
        pieces = _READERS[source.kind](source, settings, counts)
        for document in pieces:
            counts.num_documents += document.part == 0
            counts.num_bytes += len(document.text.encode())
            yield document


def _take_or_count(bad: _Bad, path: Path, settings: DataSettings, counts: Counts) -> None:
    if settings.on_bad == "fail":
        raise DataError(path, bad.problem, line=bad.line, way_out=_SKIP_HINT)
    counts.skipped[bad.reason] = counts.skipped.get(bad.reason, 0) + 1
    if len(counts.examples) < 20:
        place = f"{path}, line {bad.line:,}" if bad.line is not None else str(path)
        counts.examples.append(f"{place}: {bad.problem}")


def _read_text(source: Source, settings: DataSettings, counts: Counts) -> Iterator[Document]:
    """A text file is one document. It is checked to its end before its first piece goes out when bad ones are
    skipped."""
    before = counts.read_bytes
    try:
        if settings.on_bad == "skip" and source.num_bytes > PIECE_CHARS:
            for _ in _text_pieces(source, Counts()):
                pass
        for part, text in enumerate(_text_pieces(source, counts)):
            yield Document(source.title or source.name, text, source.path, part=part)
    except _Bad as bad:
        if settings.on_bad == "skip":
            counts.read_bytes = before + source.num_bytes
        _take_or_count(bad, source.path, settings, counts)


def _text_pieces(source: Source, counts: Counts) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    held, line, seen = "", 1, False
    try:
        file = open(source.path, "rb")  # noqa: SIM115 - closed by the `with` below
    except OSError as error:
        raise DataError(
            source.path, f"cannot be read ({error.strerror})", way_out="check its permissions"
        ) from error
    with file:
        while True:
            chunk = file.read(PIECE_CHARS)
            counts.read_bytes += len(chunk)
            held += _decoded(decoder, chunk, line)
            line += chunk.count(b"\n")
            if not seen:
                held = held.removeprefix("\ufeff")
            seen = seen or bool(held.strip())
            if not chunk:
                break
            while seen and len(held) >= PIECE_CHARS:
                cut = (
                    (held.rfind("\n", 0, PIECE_CHARS) + 1)
                    or (held.rfind(" ", 0, PIECE_CHARS) + 1)
                    or PIECE_CHARS
                )
                yield _tidied(held[:cut]) if source.tidy else held[:cut]
                held = held[cut:]
    if not seen:
        raise _Bad("empty", "is empty")
    if held:
        yield _tidied(held) if source.tidy else held


def _decoded(decoder: codecs.IncrementalDecoder, chunk: bytes, line: int) -> str:
    """Text of a chunk that begins in `line`."""
    if (zero := chunk.find(b"\0")) >= 0:
        raise _Bad("binary", "is binary (it holds a zero byte)", line + chunk.count(b"\n", 0, zero))
    try:
        return decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
        at = line + error.object.count(b"\n", 0, error.start)
        byte = error.object[error.start]
        raise _Bad("bad UTF-8", f"is no UTF-8 (byte 0x{byte:02x})", at) from None


def _tidied(text: str) -> str:
    """No spaces before a line's end, never more than one blank line, and an end of line at the end."""
    text = re.sub(r"[ \t]+(?=\n|\Z)", "", text.replace("\r\n", "\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


def _read_jsonl(source: Source, settings: DataSettings, counts: Counts) -> Iterator[Document]:
    """One document for each line of JSON. Blank lines are passed over."""
    with open(source.path, "rb") as file:
        number = 0
        while row := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            counts.read_bytes += len(row)
            if not row.strip():
                continue
            try:
                yield from _row_pieces(_json_row(row, number), source, settings, number)
            except _Bad as bad:
                _take_or_count(bad, source.path, settings, counts)
                while row and not row.endswith(b"\n"):  # the rest of a line that was too long
                    row = file.readline(MAX_LINE_BYTES)
                    counts.read_bytes += len(row)
        if number == 0:
            _take_or_count(_Bad("empty", "is empty"), source.path, settings, counts)


def _json_row(row: bytes, number: int) -> dict[str, Any]:
    if len(row) > MAX_LINE_BYTES:
        raise _Bad("too long", f"a line is longer than {MAX_LINE_BYTES:,} bytes", number)
    try:
        value = json.loads(row.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        kind = "binary" if b"\0" in row else "bad UTF-8"
        raise _Bad(kind, f"is no UTF-8 (byte 0x{error.object[error.start]:02x})", number) from None
    except (ValueError, RecursionError) as error:
        kind, problem = ("binary", "is binary") if b"\0" in row else ("bad JSON", f"is no JSON ({error})")
        raise _Bad(kind, problem, number) from None
    if not isinstance(value, dict):
        raise _Bad("bad JSON", "is no JSON object", number)
    return value


def _read_table(source: Source, settings: DataSettings, counts: Counts) -> Iterator[Document]:
    """One document for each row of a .parquet or .arrow file."""
    total, rows, before, done = source.num_bytes, 0, counts.read_bytes, 0.0
    columns = [settings.field] + ([settings.title_field] if settings.title_field else [])
    for number, row, share in iter_table(source.path, source.kind, columns):
        rows, done = number, min(1.0, done + share)
        counts.read_bytes = before + int(total * done)
        try:
            yield from _row_pieces(row, source, settings, number)
        except _Bad as bad:
            _take_or_count(bad, source.path, settings, counts)
    counts.read_bytes = before + total
    if rows == 0:
        _take_or_count(_Bad("empty", "holds no rows"), source.path, settings, counts)


def _row_pieces(
    row: dict[str, Any], source: Source, settings: DataSettings, number: int
) -> Iterator[Document]:
    if settings.field not in row or row[settings.field] is None:
        has = ", ".join(sorted(key for key in row if row[key] is not None)[:8]) or "nothing"
        raise _Bad("missing field", f"has no field {settings.field!r} (it has {has})", number)
    text = row[settings.field]
    if not isinstance(text, str):
        raise _Bad("not a text", f"the field {settings.field!r} is {type(text).__name__}, not a text", number)
    if not text.strip():
        raise _Bad("empty", f"the field {settings.field!r} is empty", number)
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        raise _Bad("bad UTF-8", f"the field {settings.field!r} holds half of a surrogate pair", number)
    title = row.get(settings.title_field) if settings.title_field else None
    if settings.title_field and not isinstance(title, str):
        raise _Bad("missing field", f"has no text in field {settings.title_field!r}", number)
    name = title if isinstance(title, str) else f"{source.name}:{number}"
    for part, begin in enumerate(range(0, len(text), PIECE_CHARS)):
        yield Document(name, text[begin : begin + PIECE_CHARS], source.path, number, part)


_READERS = {"text": _read_text, "jsonl": _read_jsonl, "parquet": _read_table, "arrow": _read_table}
