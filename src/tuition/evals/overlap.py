"""Find text that a model was taught in text that it is to be scored on.

In: tokens of both.  Out: the documents that were not taught. Passages are compared with spacing and line ends
apart, so that text counts as taught wherever it stands: copied, renamed, reordered, or with text added.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tuition.data.sampler import mix
from tuition.data.shards import TokenSet
from tuition.tokenizer.tokenizer import Tokenizer

PASSAGE_BYTES = 64
"""A shorter passage can be a phrase that two texts share by chance."""

MOST_TAUGHT = 0.2
"""Share of a document's passages that may be in the taught text: quotations and licences are."""

_TOKENS_AT_ONCE = 2**18
_FEW_BYTES = 2**23  # of all documents together: beyond that, long ones are sampled
_SAMPLED = np.uint64(8)
_FILTER_BITS = np.uint64(22)
_PRIME = 0x9E3779B97F4A7C15


class Passages:
    """The passages of some documents, and which of them were found elsewhere."""

    def __init__(self, documents: Sequence[bytes]) -> None:
        texts = [_normalised(document) for document in documents]
        is_large = sum(map(len, texts)) > _FEW_BYTES
        self._texts = [text if len(text) < PASSAGE_BYTES else b"" for text in texts]
        self._short = dict.fromkeys(filter(None, self._texts), False)
        self._hashes: list[NDArray[np.uint64]] = []
        for text in texts:
            hashes = _hashes(text)
            if is_large and len(text) > 1_024:
                hashes = hashes[hashes % _SAMPLED == 0]
            self._hashes.append(hashes)
        self._all = np.unique(np.concatenate(self._hashes)) if texts else np.empty(0, np.uint64)
        self._found = np.zeros(len(self._all), dtype=bool)
        self._filter = np.zeros(2 ** int(_FILTER_BITS), dtype=bool)
        self._filter[self._all >> (np.uint64(64) - _FILTER_BITS)] = True

    def look_in(self, text: bytes) -> None:
        """Find passages in a text; a zero byte stands between its documents."""
        if self._short:
            for document in text.split(b"\0"):
                if len(document) < 4 * PASSAGE_BYTES and (short := _normalised(document)) in self._short:
                    self._short[short] = True
        hashes = _hashes(_normalised(text))
        hashes = hashes[self._filter[hashes >> (np.uint64(64) - _FILTER_BITS)]]
        if len(hashes):
            places = np.searchsorted(self._all, hashes).clip(max=len(self._all) - 1)
            self._found[places[self._all[places] == hashes]] = True

    def shares(self) -> list[float]:
        """Of each document: the share of it that was found, 0 to 1."""
        found = []
        for text, hashes in zip(self._texts, self._hashes, strict=True):
            if len(hashes):
                found.append(float(self._found[np.searchsorted(self._all, hashes)].mean()))
            else:
                found.append(float(self._short.get(text, False)))
        return found


def without_taught(text: TokenSet, taught: Iterable[TokenSet], tokenizer: Tokenizer) -> tuple[TokenSet, int]:
    """The documents of `text` of which little is in the taught text, and how many bytes of others there are.

    All have ids of the same tokenizer.
    """
    indices = range(text.info.num_documents)
    documents = [b"".join(_text_of(text.document(index), tokenizer)) for index in indices]
    passages = Passages(documents)
    for part in taught:
        rest = b""
        for piece in _text_of(part.tokens, tokenizer):
            passages.look_in(rest + piece)
            rest = (rest + piece)[-4 * PASSAGE_BYTES :]  # passages also go from one piece into the next
    kept = [index for index, share in enumerate(passages.shares()) if share <= MOST_TAUGHT]
    num_bytes = [len(document.replace(b"\0", b"")) for document in documents]
    return text.only(kept, sum(num_bytes[index] for index in kept)), sum(
        num_bytes[index] for index in set(indices) - set(kept)
    )


def _text_of(tokens: NDArray[np.unsignedinteger], tokenizer: Tokenizer) -> Iterator[bytes]:
    """Bytes of many tokens, some at a time; marks between documents are zero bytes."""
    pieces, specials = tokenizer.pieces.shown, tokenizer.special_ids
    table = [b"\0" if index in specials else piece for index, piece in enumerate(pieces)]
    for begin in range(0, len(tokens), _TOKENS_AT_ONCE):
        yield b"".join([table[index] for index in tokens[begin : begin + _TOKENS_AT_ONCE].tolist()])


def _normalised(text: bytes) -> bytes:
    return b" ".join(text.replace(b"\0", b" ").split())


def _hashes(text: bytes) -> NDArray[np.uint64]:
    """A hash of every passage of a text, in order: (len(text) - PASSAGE_BYTES + 1,), none for a shorter
    one."""
    if len(text) < PASSAGE_BYTES:
        return np.empty(0, np.uint64)
    hashes = np.frombuffer(text, np.uint8).astype(np.uint64) + np.uint64(1)
    span = 1
    while span < PASSAGE_BYTES:  # a polynomial over twice the span, from two of the span
        hashes = hashes[:-span] * np.uint64(pow(_PRIME, span, 2**64)) + hashes[span:]
        span *= 2
    return mix(hashes)
