"""Rows of equal length, cut from consecutive documents.

In: `TokenSet`, epochs and sample ids.  Out: `Rows` (numpy), which `loader` turns into tensors. A row that
touches several documents says where each begins, so that attention stays inside a document and positions
start again.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuition.core.errors import DataError, SettingsError
from tuition.data.sampler import mix
from tuition.data.shards import TokenSet

IGNORED = -100
"""A target that is not taught, as torch's cross entropy understands it."""


@dataclass(frozen=True)
class Rows:
    """All (rows, seq_len), int64."""

    token_ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    positions: NDArray[np.int64]
    segments: NDArray[np.int64] | None
    """Which document of the row a token is in, from 0. None: each row is in one document."""


@dataclass(frozen=True)
class RowCutter:
    """Cuts a token set into windows. Each epoch shifts the windows, so that their edges are elsewhere."""

    tokens: TokenSet
    seq_len: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seq_len < 1:
            raise SettingsError("seq_len", got=self.seq_len, wanted="at least 1")
        if self.tokens.num_tokens < self.seq_len + 1:
            problem = f"holds {self.tokens.num_tokens:,} tokens, one row needs {self.seq_len + 1:,}"
            raise DataError("corpus", problem, way_out="lower seq_len or add text")

    @property
    def num_samples(self) -> int:
        """Rows of one epoch: one fewer than would fit, to leave room for the shift."""
        whole = (self.tokens.num_tokens - 1) // self.seq_len
        return max(1, whole - 1)

    def starts(self, epochs: NDArray[np.int64], sample_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of each row's first token."""
        room = self.tokens.num_tokens - 1 - self.num_samples * self.seq_len
        seeded = np.uint64(self.seed % 2**64) ^ np.uint64(0xA0761D6478BD642F)
        shift = mix(epochs.astype(np.uint64) + seeded) % np.uint64(min(room, self.seq_len) + 1)
        return sample_ids * self.seq_len + shift.astype(np.int64)

    def cut(self, starts: NDArray[np.int64]) -> Rows:
        """The rows that begin at `starts` (rows,)."""
        length = self.seq_len
        windows = np.stack([self.tokens.tokens[start : start + length + 1] for start in starts]).astype(
            np.int64
        )
        targets = windows[:, 1:].copy()  # a copy even of a single row: it is written to
        positions = np.tile(np.arange(length, dtype=np.int64), (len(starts), 1))
        segments: NDArray[np.int64] | None = None
        begins = self.tokens.document_starts
        for row, start in enumerate(starts):
            inside = begins[
                np.searchsorted(begins, start, "right") : np.searchsorted(begins, start + length, "right")
            ]
            inside = np.asarray(inside) - start  # (documents that begin within the row or right behind it,)
            if self.tokens.masks_boundaries:
                targets[row, inside - 1] = IGNORED
            inside = inside[inside < length]
            if len(inside) == 0:
                continue
            if segments is None:
                segments = np.zeros((len(starts), length), dtype=np.int64)
            segments[row, inside] = 1
            segments[row] = np.cumsum(segments[row])
            positions[row] -= np.concatenate(([0], inside))[segments[row]]
        return Rows(np.ascontiguousarray(windows[:, :-1]), targets, positions, segments)
