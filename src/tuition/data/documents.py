"""Documents, read from files without ever holding more than a piece of one.

In: `DataSettings`.  Out: `Document`s. What cannot be taught is named with file and line, or left out and
counted.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tuition.core.errors import DataError, shown_path
from tuition.core.words import value_in_words
from tuition.data import readers
from tuition.data.corpora import demo_corpus
from tuition.data.readers import BadInput, OpenSource, Row, text_pieces
from tuition.data.row_files import source_rows
from tuition.data.settings import DataSettings
from tuition.data.sources import Source, compression_of, find_sources

_SKIP = "--data.on-bad skip leaves such out"


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

    def leave_out(self, reason: str, path: Path, problem: str, line: int | None = None) -> None:
        """Count something that is left out, and remember the first ones."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        if len(self.examples) < 20:
            place = shown_path(path) + ("" if line is None else f", line {line:,}")
            self.examples.append(f"{place}: {problem}")


def sources_of(settings: DataSettings) -> list[Source]:
    """The files of the corpus that `settings` ask for."""
    return list(demo_corpus(settings.demo).sources) if settings.demo else find_sources(settings)


def iter_documents(
    settings: DataSettings, counts: Counts | None = None, sources: list[Source] | None = None
) -> Iterator[Document]:
    """All documents, in the same order every time. `counts` is filled as they come. Raises: DataError."""
    counts = counts if counts is not None else Counts()
    for source in sources if sources is not None else sources_of(settings):
        before = counts.read_bytes
        read = _text_document if source.kind == "text" else _row_documents
        try:
            for document in read(source, settings, counts):
                counts.num_documents += document.part == 0
                counts.num_bytes += len(document.text.encode())
                yield document
        except BadInput as bad:
            _leave_out(bad, source, settings, counts)
        counts.read_bytes = before + source.num_bytes


def _leave_out(bad: BadInput, source: Source, settings: DataSettings, counts: Counts) -> None:
    """Count what cannot be used. Raises: DataError where that is asked for."""
    if settings.on_bad == "fail":
        way_out = f"{bad.way_out}; {_SKIP}"
        raise DataError(source.path, bad.problem, line=bad.line, way_out=way_out)
    counts.leave_out(bad.reason, source.path, bad.problem, bad.line)


def _text_document(source: Source, settings: DataSettings, counts: Counts) -> Iterator[Document]:
    """A text file is one document. It is checked to its end before its first piece goes out when bad ones are
    skipped."""
    is_long = source.num_bytes > readers.PIECE_CHARS or compression_of(source.path) is not None
    if settings.on_bad == "skip" and is_long:
        with OpenSource(source) as opened:
            for _ in text_pieces(opened):
                pass
    before = counts.read_bytes
    with OpenSource(source) as opened:
        for part, text in enumerate(text_pieces(opened)):
            counts.read_bytes = before + opened.position
            text = _tidied(text) if source.tidy else text
            yield Document(source.title or source.name, text, source.path, part=part)


def _tidied(text: str) -> str:
    """No spaces before a line's end, never more than one blank line, and an end of line at the end."""
    text = re.sub(r"[ \t]+(?=\n|\Z)", "", text.replace("\r\n", "\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


def _row_documents(source: Source, settings: DataSettings, counts: Counts) -> Iterator[Document]:
    """One document for each row."""
    for number, row in _rows(source, settings, counts):
        try:
            if isinstance(row, BadInput):
                raise row
            yield from _row_pieces(row, source, settings, number)
        except BadInput as bad:
            _leave_out(bad, source, settings, counts)


def _rows(source: Source, settings: DataSettings, counts: Counts) -> Iterator[tuple[int, Row | BadInput]]:
    before = counts.read_bytes
    columns = [settings.field] + ([settings.title_field] if settings.title_field else [])
    for number, row, read_bytes in source_rows(source, columns):
        counts.read_bytes = before + read_bytes
        yield number, row


def _row_pieces(row: Row, source: Source, settings: DataSettings, number: int) -> Iterator[Document]:
    text = _text_of(row, settings.field, "--data.field", number)
    if not text.strip():
        raise BadInput("empty", f"the field {settings.field!r} is empty", number)
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        problem = f"the field {settings.field!r} holds half of a surrogate pair"
        raise BadInput("bad UTF-8", problem, number)
    name = f"{source.name}:{number}"
    if settings.title_field:
        name = _text_of(row, settings.title_field, "--data.title-field", number)
    for part, begin in enumerate(range(0, len(text), readers.PIECE_CHARS)):
        yield Document(name, text[begin : begin + readers.PIECE_CHARS], source.path, number, part)


def _text_of(row: Row, name: str, option: str, number: int) -> str:
    """The text in a field; `option` is the one that names the field. Raises: BadInput."""
    value = row.get(name)
    if isinstance(value, str):
        return value
    texts = [key for key in row if isinstance(row[key], str)]
    way_out = f"name a field that holds text, like {option} {texts[0]}" if texts else "mend it"
    if value is not None:
        problem = f"the field {name!r} is {value_in_words(value)}, not a text"
        raise BadInput("not a text", problem, number, way_out=way_out)
    if name in row:
        raise BadInput("missing field", f"the field {name!r} is null", number, way_out=way_out)
    has = ", ".join(sorted(key for key in row if row[key] is not None)[:8]) or "nothing"
    raise BadInput("missing field", f"has no field {name!r} (it has {has})", number, way_out=way_out)
