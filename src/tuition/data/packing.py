"""Batches of examples of different lengths, without padding, and common beginnings once.

In: `Taught` sequences.  Out: `LessonBatch`: the tokens of several examples one behind the other, each with
its own positions. Examples that begin with the same tokens, such as a system prompt, share these: what
follows attends to them, so losses and gradients are those of each example alone. Which examples are in which
batch follows from the seed and the step alone, so that a run that is resumed needs no stored position.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tuition.core.errors import DataError, SettingsError
from tuition.data.beginnings import shared_beginnings
from tuition.data.rows import IGNORED
from tuition.data.sampler import Sampler
from tuition.tokenizer.taught import Taught

_LONG_SHARE = 1 / 8
"""Examples of at least this share of a batch are placed first, while every batch has room."""


class Group(NamedTuple):
    """Examples that begin with the same untaught tokens, which a batch holds once."""

    shared: int
    """Tokens of the common beginning, 0 where there is none."""
    own: tuple[int, ...]
    """Tokens of each example behind it, in order."""


@dataclass(frozen=True, eq=False)
class LessonBatch:
    """Examples for one forward pass. All tensors (1, tokens), int64.

    The row holds one group behind the other: its common beginning, then what follows it in each example.
    """

    lessons: tuple[Taught, ...]
    """The examples, in the order in which they were given."""
    token_ids: Tensor
    targets: Tensor
    """The token that follows; -100 where it is not taught."""
    positions: Tensor
    """From 0 in every example."""
    groups: tuple[Group, ...]
    """Attention must not cross from one example to the next."""
    origins: Tensor
    """(tokens,): the place in `lessons` of the example that a token belongs to, of the first one for a common
    beginning."""
    num_units: int
    """Targets that are taught."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each example, its beginning included, in the order of the groups."""
        return tuple(group.shared + own for group in self.groups for own in group.own)

    def shares(self, count: int) -> list["LessonBatch"]:
        """The examples in `count` parts of about equally many tokens, at most one part for each example."""
        count = min(count, len(self.lessons))
        if count <= 1:
            return [self]
        lengths = np.array([num_inputs(lesson) for lesson in self.lessons])
        order = np.argsort(-lengths, kind="stable")
        parts = balanced(lengths[order], count)
        return [lesson_batch(self.lessons[index] for index in sorted(order[part])) for part in parts]


def lesson_batch(lessons: Iterable[Taught]) -> LessonBatch:
    """Examples as one batch. What follows the last taught token of an example is left out: it teaches
    nothing."""
    given = tuple(lessons)
    beginnings = shared_beginnings([lesson.ids[: _num_untaught(lesson)] for lesson in given])
    pieces: list[_Piece] = []
    groups: list[Group] = []
    for shared, members in beginnings:
        if shared:
            pieces.append(_Piece(members[0], given[members[0]], 0, shared))
        lengths = [num_inputs(given[place]) for place in members]
        pieces += [
            _Piece(place, given[place], shared, length)
            for place, length in zip(members, lengths, strict=True)
        ]
        groups.append(Group(shared, tuple(length - shared for length in lengths)))
    targets = _joined(piece.targets for piece in pieces)
    return LessonBatch(
        given,
        _joined(piece.ids for piece in pieces)[None],
        targets[None],
        _joined(np.arange(piece.start, piece.end) for piece in pieces)[None],
        tuple(groups),
        _joined(np.full(piece.end - piece.start, piece.place) for piece in pieces),
        int((targets != IGNORED).sum()),
    )


class _Piece(NamedTuple):
    """A stretch of an example that stands in one piece in a batch."""

    place: int
    lesson: Taught
    start: int
    end: int

    @property
    def ids(self) -> NDArray[np.int32]:
        return self.lesson.ids[self.start : self.end]

    @property
    def targets(self) -> NDArray[np.int64]:
        following = slice(self.start + 1, self.end + 1)
        return np.where(self.lesson.taught[following], self.lesson.ids[following], IGNORED)


def _joined(parts: Iterable[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.concatenate(list(parts)).astype(np.int64))


def _num_untaught(lesson: Taught) -> int:
    """Tokens at the beginning of an example whose successors are not taught."""
    return int(np.argmax(lesson.taught[1:])) if len(lesson.taught) > 1 else 0


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
