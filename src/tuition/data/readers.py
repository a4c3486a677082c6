"""Read files piece by piece and row by row, and tell what in them cannot be used.

In: `Source`s.  Out: pieces of text, or numbered rows as dicts. A fault of a whole file is raised as
`BadInput`; a row that cannot be used comes as a `BadInput` in its place, and reading goes on.
"""

import bz2
import codecs
import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from typing import Any, Self

from tuition.core.errors import DataError
from tuition.core.repeated_keys import RepeatedKeyError, without_repeats
from tuition.core.words import value_in_words
from tuition.data.sources import Source, compression_of

PIECE_CHARS = 2**18
"""A longer text comes in pieces, cut at a line's end where there is one."""

MAX_LINE_BYTES = 2**28
"""A row of JSON has to be held whole."""

Row = dict[str, Any]

_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class BadInput(Exception):  # noqa: N818 - whether it is an error is the choice of the user
    """Input that cannot be used: why, and where."""

    def __init__(
        self, reason: str, problem: str, line: int | None = None, *, way_out: str = "mend it"
    ) -> None:
        self.reason, self.problem, self.line, self.way_out = reason, problem, line, way_out
        super().__init__(problem)


class OpenSource:
    """A file that is read from its beginning; a compressed one is unpacked on the way."""

    def __init__(self, source: Source) -> None:
        self._source = source
        try:
            self._raw = open(source.path, "rb")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
            raise DataError(source.path, problem, way_out="check its permissions") from error
        kind = compression_of(source.path)
        self._file: Any = self._raw if kind is None else _OPENERS[kind](self._raw, "rb")
        self._is_new = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._raw.close()

    @property
    def position(self) -> int:
        """Bytes of the file on disk that were read."""
        return self._raw.tell()

    def read(self, size: int) -> bytes:
        """Raises: BadInput if the file is damaged, DataError if it cannot be read."""
        return self._checked(self._file.read, size)

    def read_line(self, most: int) -> bytes:
        """Raises: as `read`."""
        return self._checked(self._file.readline, most)

    def _checked(self, read: Any, size: int) -> bytes:
        try:
            found = read(size)
            if self._is_new and (encoding := wide_encoding(found)):
                problem = f"is {encoding} text, wanted UTF-8"
                raise BadInput(encoding, problem, way_out="save it as UTF-8")
            self._is_new = False
            return found
        except _DAMAGED as error:
            raise BadInput("damaged", f"is damaged or cut off ({error})", way_out="fetch it again") from None
        except OSError as error:
            if self._file is not self._raw and error.errno is None:  # what bz2 raises for damage
                raise BadInput("damaged", f"is damaged ({error})", way_out="fetch it again") from None
            problem = f"cannot be read ({error.strerror})"
            raise DataError(self._source.path, problem, way_out="check the disk") from error


def wide_encoding(start: bytes) -> str | None:
    """The encoding of a text of two or four bytes a character that begins so; None for any other."""
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    half = len(start := start[:256]) // 2
    zeros = sorted((start[0::2].count(0), start[1::2].count(0)))  # Latin letters leave every other byte 0
    return "UTF-16" if half >= 2 and zeros[0] == 0 and zeros[1] >= 0.7 * half else None


def text_pieces(opened: OpenSource) -> Iterator[str]:
    """A text in pieces of at most `PIECE_CHARS`. Raises: BadInput."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    held, line, seen = "", 1, False
    while True:
        chunk = opened.read(PIECE_CHARS)
        held += _decoded(decoder, chunk, line)
        line += chunk.count(b"\n")
        if not seen:
            held = held.removeprefix("\ufeff")
        seen = seen or bool(held.strip())
        if not chunk:
            break
        while seen and len(held) >= PIECE_CHARS:
            cut = (held.rfind("\n", 0, PIECE_CHARS) + 1) or (held.rfind(" ", 0, PIECE_CHARS) + 1)
            cut = cut or PIECE_CHARS
            yield held[:cut]
            held = held[cut:]
    if not seen:
        raise BadInput("empty", "is empty")
    if held:
        yield held


def _decoded(decoder: codecs.IncrementalDecoder, chunk: bytes, line: int) -> str:
    """Text of a chunk that begins in `line`."""
    if (zero := chunk.find(b"\0")) >= 0:
        at = line + chunk.count(b"\n", 0, zero)
        raise BadInput("binary", "is binary (it holds a zero byte)", at, way_out="name files of text")
    try:
        return decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
        at = line + error.object.count(b"\n", 0, error.start)
        byte = error.object[error.start]
        way_out = "save it as UTF-8"
        raise BadInput("bad UTF-8", f"is no UTF-8 (byte 0x{byte:02x})", at, way_out=way_out) from None


def json_rows(opened: OpenSource) -> Iterator[tuple[int, Row | BadInput]]:
    """Number of the line, from 1, and its object. Blank lines are passed over. Raises: BadInput."""
    number = 0
    while line := opened.read_line(MAX_LINE_BYTES + 1):
        number += 1
        if line.strip():
            yield number, _json_row(line, number)
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):  # the rest of a line too long
            line = opened.read_line(MAX_LINE_BYTES + 1)
    if number == 0:
        raise BadInput("empty", "is empty")


def _json_row(line: bytes, number: int) -> Row | BadInput:
    if len(line) > MAX_LINE_BYTES:
        return BadInput("too long", f"a line is longer than {MAX_LINE_BYTES:,} bytes", number)
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        value = json.loads(text, object_pairs_hook=without_repeats)
    except UnicodeDecodeError as error:
        kind = "binary" if b"\0" in line else "bad UTF-8"
        return BadInput(kind, f"is no UTF-8 (byte 0x{error.object[error.start]:02x})", number)
    except RepeatedKeyError as error:
        return BadInput("ambiguous field", str(error), number, way_out=error.way_out)
    except (ValueError, RecursionError) as error:
        if b"\0" in line:
            return BadInput("binary", "is binary", number)
        return BadInput("bad JSON", f"is no JSON ({error})", number)
    if not isinstance(value, dict):
        way_out = "name it .json if the whole file is one list" if isinstance(value, list) else "mend it"
        problem = f"is {value_in_words(value)}, wanted a JSON object"
        return BadInput("bad JSON", problem, number, way_out=way_out)
    return value
