"""Batches as tensors.

In: `TokenSet`.  Out: `Batch`, a function of the step alone, so that a run that is resumed needs no stored
position.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from tuition.data.rows import IGNORED, RowCutter
from tuition.data.sampler import Sampler
from tuition.data.shards import TokenSet


@dataclass(frozen=True)
class Batch:
    """Rows for one forward pass. All tensors (batch, seq), int64."""

    token_ids: Tensor
    targets: Tensor
    """The token that follows; -100 where nothing is taught."""
    positions: Tensor
    """From 0 in every document, and at the start of a row."""
    segments: Tensor | None
    """Which document of its row a token is in. None: each row is in one document, so that plain causal
    attention is right."""
    num_tokens: int
    """Targets that are taught."""
    sample_ids: tuple[int, ...] = ()
    """Samples of the batch, for the record."""

    @property
    def num_units(self) -> int:
        """As the training loop calls it."""
        return self.num_tokens

    def shares(self, count: int) -> list["Batch"]:
        """The rows in `count` parts of nearly equal size, at most one part for each row."""
        count = min(count, len(self.token_ids))
        if count <= 1:
            return [self]
        edges = [len(self.token_ids) * index // count for index in range(count + 1)]
        return [self._rows(slice(start, end)) for start, end in pairwise(edges)]

    def _rows(self, part: slice) -> "Batch":
        targets = self.targets[part]
        return Batch(
            token_ids=self.token_ids[part],
            targets=targets,
            positions=self.positions[part],
            segments=None if self.segments is None else self.segments[part],
            num_tokens=int((targets != IGNORED).sum()),
            sample_ids=self.sample_ids[part],
        )


class Loader:
    """Batches of a token set, by step."""

    def __init__(
        self,
        tokens: TokenSet,
        batch_size: int,
        seq_len: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.cutter = RowCutter(tokens, seq_len, seed)
        self.sampler = Sampler(self.cutter.num_samples, batch_size, seed, rank, world_size)

    @property
    def epoch_steps(self) -> float:
        """Steps in which every row comes once, a fraction included."""
        return self.sampler.epoch_steps

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        epochs, sample_ids = self.sampler.step(step)
        rows = self.cutter.cut(self.cutter.starts(epochs, sample_ids))
        return Batch(
            token_ids=torch.from_numpy(rows.token_ids),
            targets=torch.from_numpy(rows.targets),
            positions=torch.from_numpy(rows.positions),
            segments=None if rows.segments is None else torch.from_numpy(rows.segments),
            num_tokens=int((rows.targets != IGNORED).sum()),
            sample_ids=tuple(sample_ids.tolist()),
        )

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """Batches without end, from `first_step` on."""
        step = first_step
        while True:
            yield self.batch(step)
            step += 1
