"""Batches of examples of different lengths, without padding.

In: `Taught` sequences.  Out: `LessonBatch`: the tokens of several examples one behind the other, each with
its own positions. Which examples are in which batch follows from the seed and the step alone, so that a run
that is resumed needs no stored position.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tuition.core.errors import DataError, SettingsError
from tuition.data.rows import IGNORED
from tuition.data.sampler import Sampler
from tuition.tokenizer.taught import Taught

_LONG_SHARE = 1 / 8
"""Examples of at least this share of a batch are placed first, while every batch has room."""


@dataclass(frozen=True, eq=False)
class LessonBatch:
    """Examples for one forward pass. All tensors (1, tokens), int64."""

    token_ids: Tensor
    targets: Tensor
    """The token that follows; -100 where it is not taught."""
    positions: Tensor
    """From 0 in every example."""
    lengths: tuple[int, ...]
    """Tokens of each example, in order: attention must not cross from one to the next."""
    num_units: int
    """Targets that are taught."""

    def shares(self, count: int) -> list["LessonBatch"]:
        """The examples in `count` parts of about equally many tokens, at most one part for each example."""
        count = min(count, len(self.lengths))
        if count <= 1:
            return [self]
        ends, order = np.cumsum(self.lengths), np.argsort(-np.array(self.lengths), kind="stable")
        parts = balanced([self.lengths[index] for index in order], count)
        return [self._examples(sorted(int(order[place]) for place in part), ends) for part in parts]

    def _examples(self, part: Sequence[int], ends: NDArray[np.int64]) -> "LessonBatch":
        places = np.concatenate([np.arange(ends[i] - self.lengths[i], ends[i]) for i in part])
        chosen = torch.from_numpy(places)
        targets = self.targets[:, chosen]
        return LessonBatch(
            self.token_ids[:, chosen],
            targets,
            self.positions[:, chosen],
            tuple(self.lengths[index] for index in part),
            int((targets != IGNORED).sum()),
        )


def lesson_batch(lessons: Iterable[Taught]) -> LessonBatch:
    """Examples as one batch. What follows the last taught token of an example is left out: it teaches
    nothing."""
    ids, targets, lengths = [], [], []
    for lesson in lessons:
        length = num_inputs(lesson)
        ids.append(lesson.ids[:length])
        targets.append(np.where(lesson.taught[1 : length + 1], lesson.ids[1 : length + 1], IGNORED))
        lengths.append(length)
    flat = np.concatenate(targets).astype(np.int64)
    return LessonBatch(
        torch.from_numpy(np.concatenate(ids).astype(np.int64))[None],
        torch.from_numpy(flat)[None],
        torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))[None],
        tuple(lengths),
        int((flat != IGNORED).sum()),
    )


def num_inputs(lesson: Taught) -> int:
    """Tokens that the model reads of an example: those before its last taught one. Raises: DataError where
    nothing is taught behind the first token."""
    taught = np.flatnonzero(lesson.taught)
    if not len(taught) or taught[-1] == 0:
        problem = "holds an example in which no token is taught"
        raise DataError("lessons", problem, way_out="leave it out")
    return int(taught[-1])


class LessonLoader:
    """Batches of about `batch_tokens` tokens. Every example comes once in every epoch, in an order that
    follows from seed and epoch. An example that is longer than a batch is one by itself."""

    def __init__(
        self,
        lessons: Sequence[Taught],
        batch_tokens: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_tokens < 1:
            raise SettingsError("batch_tokens", got=batch_tokens, wanted="at least 1")
        if not len(lessons):
            raise DataError("lessons", "holds no examples", way_out="name files that hold some")
        self._lessons, self._batch_tokens = lessons, batch_tokens
        self._lengths = np.array([num_inputs(lesson) for lesson in lessons])
        self._num_rows = max(1, -(-int(self._lengths.sum()) // batch_tokens))
        self._num_rows = min(self._num_rows, len(lessons))
        self._examples = Sampler(len(lessons), len(lessons), seed)
        self._rows = Sampler(self._num_rows, 1, seed, rank, world_size)
        self._plan = lru_cache(maxsize=2)(self._rows_of)

    @property
    def batches_per_epoch(self) -> int:
        """Of all ranks together."""
        return self._num_rows

    def batch(self, step: int) -> LessonBatch:
        """The batch of a microbatch counted from 0."""
        return lesson_batch(self._lessons[index] for index in self.examples_of(step))

    def examples_of(self, step: int) -> tuple[int, ...]:
        """Which examples are in the batch of a microbatch."""
        epochs, rows = self._rows.step(step)
        return self._plan(int(epochs[0]))[int(rows[0])]

    def _rows_of(self, epoch: int) -> tuple[tuple[int, ...], ...]:
        """The examples of every batch of an epoch."""
        order = self._examples.at(epoch, np.arange(len(self._lengths)))
        lengths = self._lengths[order]
        is_short = lengths < _LONG_SHARE * self._batch_tokens
        placed = np.lexsort((np.where(is_short, 0, -lengths), is_short))  # stable: short ones stay shuffled
        order = order[placed]
        rows = balanced(self._lengths[order], self._num_rows)
        return tuple(tuple(int(order[place]) for place in row) for row in rows)


def balanced(lengths: Iterable[int], count: int) -> list[list[int]]:
    """Places of `lengths` in `count` groups: each goes to the group that has the least so far."""
    groups: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, index) for index in range(count)]
    for place, length in enumerate(lengths):
        total, index = heap[0]
        groups[index].append(place)
        heapq.heapreplace(heap, (total + int(length), index))
    return groups
