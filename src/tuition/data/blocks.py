"""Cut documents into blocks, and tell which texts are copies.

In: `Document`s.  Out: blocks of text of about equal length, for corpora of so few documents that none can be
held out whole. Where a block ends depends on the lines around it, so that a copy of a text is cut into the
same blocks, also behind a new beginning or with other line ends.
"""

import hashlib
import re
import unicodedata
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate

from tuition.data.documents import Document
from tuition.data.readers import PIECE_CHARS

IDENTITY_CHARS = 2**16
"""Of the beginning of a text, which decide whether it is a copy."""

_WORD = re.compile(r"\s*\S+\s*|\s+")


def identity(text: str, salt: bytes = b"") -> int:
    """64-bit hash of the words at the beginning of a text: a copy with other line ends, spacing or Unicode
    composition has the same. Another `salt` gives an independent hash."""
    words = " ".join(text[:PIECE_CHARS].replace("\ufeff", "").split())[:IDENTITY_CHARS]
    if not words.isascii():
        words = unicodedata.normalize("NFC", words)
    digest = hashlib.blake2b(words.encode(), digest_size=8, salt=salt).digest()
    return int.from_bytes(digest, "big")


def cut_blocks(documents: Iterable[Document], block_bytes: int) -> Iterator[tuple[Document, str]]:
    """Each document's text in blocks of half to one and a half `block_bytes`, its last one perhaps shorter.

    With a block comes the piece of the document in which it ends.
    """
    cutter, last = _Cutter(block_bytes), None
    for document in documents:
        if document.part == 0 and last is not None:
            yield from ((last, block) for block in cutter.finish())
            cutter = _Cutter(block_bytes)
        yield from ((document, block) for block in cutter.add(document.text))
        last = document
    if last is not None:
        yield from ((last, block) for block in cutter.finish())


class _Cutter:
    """Cuts one document, which comes in pieces: where they are cut changes no block."""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes, self._most_chars = block_bytes, max(1, block_bytes // 4)
        self._tail, self._in_words = "", False  # a line that goes on; whether it is cut into words
        self._atoms: list[str] = []  # lines and words that are in no block yet

    def add(self, text: str) -> Iterator[str]:
        *lines, self._tail = (self._tail + text).splitlines(keepends=True) or [""]
        for line in lines:
            self._atoms += self._cut_line(line)
            self._in_words = False
        if self._in_words or len(self._tail) > self._most_chars:
            *words, self._tail = self._cut_line(self._tail) or [""]
            self._atoms += words
            self._in_words = True
        return self._blocks()

    def finish(self) -> Iterator[str]:
        """The blocks that are left."""
        self._atoms += self._cut_line(self._tail)
        yield from self._blocks()
        if self._atoms:
            yield "".join(self._atoms)

    def _cut_line(self, line: str) -> list[str]:
        """The line; if it is long, its words; if these are long, parts of them."""
        most = self._most_chars
        if not self._in_words and len(line) <= most:
            return [line] if line else []
        return [word[at : at + most] for word in _WORD.findall(line) for at in range(0, len(word), most)]

    def _blocks(self) -> Iterator[str]:
        """Blocks that end before a later one must begin."""
        atoms = self._atoms
        stripped = [atom.strip().encode() for atom in atoms]
        ends = list(accumulate(map(len, stripped)))  # bytes up to the end of each, outer spaces apart
        least, most = self._block_bytes // 2, self._block_bytes * 3 // 2
        begin = before = 0
        while ends and ends[-1] - before > most:
            first = bisect_left(ends, before + least, begin)
            last = max(first, bisect_left(ends, before + most, begin) - 1)
            end = next((at for at in range(first, last) if self._is_edge(stripped[at])), last) + 1
            yield "".join(atoms[begin:end])
            begin, before = end, ends[end - 1]
        self._atoms = atoms[begin:]

    def _is_edge(self, line: bytes) -> bool:
        """Whether a block ends with this line: with a chance that grows with its length."""
        return zlib.crc32(line) * self._block_bytes < len(line) * 2 * 2**32
