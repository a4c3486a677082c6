"""Token ids on disk: written one document after another, memory-mapped for reading.

A part of a corpus is two files: `<part>.ids` (little-endian uint16 or uint32) and `<part>.starts` (int64,
where documents begin).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tuition.core.errors import DataError, SettingsError
from tuition.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Markers:
    """Token ids around a document.

    Where the tokenizer has one token for both, a separator stands before each document and after the last:
    the model reads it as the beginning of a document and is taught it as the end of the one before. Otherwise
    each document has a token before and one after it.
    """

    before: int | None
    after: int | None
    separator: int | None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Markers":
        """Raises: SettingsError for a tokenizer that has no end of text."""
        if not tokenizer.eos_ids:
            raise SettingsError(
                "tokenizer", got="no end-of-text token", wanted="one with an eos token in its config"
            )
        end = tokenizer.eos_ids[0]
        if not tokenizer.add_bos or tokenizer.bos_id in (None, end):
            return cls(None, None, end)
        return cls(tokenizer.bos_id, end, None)


@dataclass(frozen=True)
class PartInfo:
    """Sizes and format of one part."""

    num_tokens: int
    num_documents: int
    num_bytes: int
    """UTF-8 bytes of its text."""
    dtype: str
    masks_boundaries: bool
    """The first token of a document is not taught from the end of the one before."""
    titles: tuple[str, ...] = ()
    """The first documents' titles."""


@dataclass(frozen=True)
class TokenSet:
    """One part of a corpus, mapped into memory."""

    tokens: NDArray[Any]
    """(num_tokens,) uint16 or uint32, read from disk when touched."""
    document_starts: NDArray[np.int64]
    """(num_documents,), ascending; the first is 0."""
    info: PartInfo

    @property
    def num_tokens(self) -> int:
        return self.info.num_tokens

    @property
    def num_bytes(self) -> int:
        return self.info.num_bytes

    @property
    def masks_boundaries(self) -> bool:
        return self.info.masks_boundaries

    def document(self, index: int) -> NDArray[Any]:
        """Ids of one document, with what stands around it."""
        ends = self.document_starts[index + 1 : index + 2]
        return self.tokens[self.document_starts[index] : ends[0] if len(ends) else self.num_tokens]

    def only(self, indices: Sequence[int], num_bytes: int) -> "TokenSet":
        """The documents of these indices, in memory; `num_bytes`: of their text."""
        documents = [np.asarray(self.document(index)) for index in indices]
        starts = np.cumsum([0, *map(len, documents)], dtype=np.int64)
        info = replace(
            self.info,
            num_tokens=int(starts[-1]),
            num_documents=len(documents),
            num_bytes=num_bytes,
            titles=self.info.titles if len(documents) == self.info.num_documents else (),
        )
        return TokenSet(np.concatenate([np.empty(0, self.tokens.dtype), *documents]), starts[:-1], info)


class PartWriter:
    """Writes one part, document by document."""

    max_titles = 100

    def __init__(self, folder: Path, part: str, markers: Markers, vocab_size: int) -> None:
        self._dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
        self._folder, self._part, self._markers = folder, part, markers
        self._ids = open(folder / f"{part}.ids", "wb")  # noqa: SIM115 - closed by finish
        self._starts = open(folder / f"{part}.starts", "wb")  # noqa: SIM115 - closed by finish
        self._num_tokens = self._num_documents = self._num_bytes = 0
        self._open_document = False
        self._titles: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ids.close()
        self._starts.close()

    def add(self, ids: NDArray[np.uint32], num_bytes: int, title: str, begins: bool) -> None:
        """Append ids to the open document, or end that and begin another."""
        if begins or not self._open_document:
            self._end_document()
            self._starts.write(np.array([self._num_tokens], "<i8").tobytes())
            self._mark(
                self._markers.separator if self._markers.separator is not None else self._markers.before
            )
            self._num_documents += 1
            self._open_document = True
            if len(self._titles) < self.max_titles and (not self._titles or self._titles[-1] != title):
                self._titles.append(title)
        self._ids.write(ids.astype(self._dtype).tobytes())
        self._num_tokens += len(ids)
        self._num_bytes += num_bytes

    def finish(self) -> PartInfo:
        """End the last document and close the files."""
        self._end_document()
        if self._num_documents:
            self._mark(self._markers.separator)
        self._ids.close()
        self._starts.close()
        masks = self._markers.separator is None
        titles = tuple(self._titles)
        return PartInfo(
            self._num_tokens, self._num_documents, self._num_bytes, self._dtype.str, masks, titles
        )

    def _end_document(self) -> None:
        if self._open_document:
            self._mark(self._markers.after)
        self._open_document = False

    def _mark(self, token_id: int | None) -> None:
        if token_id is not None:
            self._ids.write(np.array([token_id], self._dtype).tobytes())
            self._num_tokens += 1


def open_part(folder: Path, part: str, info: PartInfo) -> TokenSet:
    """Map a part that was written. Raises: DataError if its files are not as long as they were."""
    dtype = np.dtype(info.dtype)
    tokens = _map(folder / f"{part}.ids", dtype, info.num_tokens)
    starts = _map(folder / f"{part}.starts", np.dtype("<i8"), info.num_documents)
    return TokenSet(tokens, starts, info)


def _map(path: Path, dtype: np.dtype[Any], length: int) -> NDArray[Any]:
    size = path.stat().st_size if path.is_file() else -1
    if size != length * dtype.itemsize:
        problem = f"is {size:,} bytes long, wanted {length * dtype.itemsize:,}"
        raise DataError(
            path, problem, way_out=f"remove the folder {path.parent.name} and prepare the data again"
        )
    return np.memmap(path, dtype, mode="r", shape=(length,)) if length else np.empty(0, dtype)


def info_to_json(info: PartInfo) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(info)))


def info_from_json(value: dict[str, Any]) -> PartInfo:
    info = PartInfo(**value)
    return replace(info, titles=tuple(info.titles))
