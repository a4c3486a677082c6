"""Batches of examples: nothing is lost, nothing leaks, and the step alone says what is in a batch."""

from collections import Counter

import numpy as np
import pytest
import torch

from tuition.core.errors import DataError, SettingsError
from tuition.data.packing import LessonBatch, LessonLoader, balanced, lesson_batch
from tuition.data.rows import IGNORED
from tuition.model.context import DenseContext
from tuition.model.decoder import Decoder
from tuition.spec.shape import ModelShape
from tuition.tokenizer.taught import Taught


def lesson(length: int, taught: range | None = None, first: int = 1) -> Taught:
    """Ids that count from `first`; the last half is taught."""
    mask = np.zeros(length, dtype=bool)
    mask[taught if taught is not None else range(length // 2, length)] = True
    return Taught(np.arange(first, first + length, dtype=np.int32), mask, np.array([length], dtype=np.int32))


def lessons(count: int, longest: int = 60, seed: int = 0) -> list[Taught]:
    lengths = np.random.default_rng(seed).integers(2, longest, count)
    return [lesson(int(length), first=10 * index) for index, length in enumerate(lengths)]


def test_targets_are_the_next_tokens_where_these_are_taught() -> None:
    batch = lesson_batch([lesson(6, range(3, 5), first=1), lesson(3, range(2, 3), first=11)])
    assert batch.token_ids.tolist() == [
        [1, 2, 3, 4, 11, 12]
    ]  # what follows the last taught token is left out
    assert batch.targets.tolist() == [[IGNORED, IGNORED, 4, 5, IGNORED, 13]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert (batch.lengths, batch.num_units) == ((4, 2), 3)


def test_an_example_without_a_taught_token_is_refused() -> None:
    for wrong in (lesson(4, range(0)), lesson(4, range(1))):
        with pytest.raises(DataError, match="no token is taught"):
            lesson_batch([wrong])


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_shares_hold_each_example_once(count: int) -> None:
    batch = lesson_batch(lessons(20))
    shares = batch.shares(count)
    assert len(shares) == min(count, 20)
    assert sum(share.num_units for share in shares) == batch.num_units
    assert sorted(rows_of(shares)) == sorted(rows_of([batch]))
    if count == 2:
        sizes = [sum(share.lengths) for share in shares]
        assert max(sizes) - min(sizes) <= 2  # of some six hundred: threads wait for the largest share


def rows_of(batches: list[LessonBatch]) -> list[tuple[tuple[int, ...], ...]]:
    """Ids, targets and positions of every example."""
    rows = []
    for batch in batches:
        parts = [
            getattr(batch, name)[0].split(batch.lengths) for name in ("token_ids", "targets", "positions")
        ]
        rows += [tuple(tuple(part.tolist()) for part in example) for example in zip(*parts, strict=True)]
    return rows


@pytest.mark.parametrize("batch_tokens", [1, 64, 300, 10**6])
def test_every_example_comes_once_in_every_epoch(batch_tokens: int) -> None:
    loader = LessonLoader(lessons(100), batch_tokens, seed=3)
    num = loader.batches_per_epoch
    epochs = [[i for step in range(epoch * num, (epoch + 1) * num) for i in loader.examples_of(step)]
              for epoch in range(3)]  # fmt: skip
    assert all(Counter(epoch) == Counter(range(100)) for epoch in epochs)
    if num > 1:
        assert epochs[0] != epochs[1]


def test_a_batch_follows_from_seed_and_step_alone() -> None:
    first, again, other = (LessonLoader(lessons(100), 200, seed=seed) for seed in (1, 1, 2))
    for step in (0, 5, 40, 3):
        assert again.examples_of(step) == first.examples_of(step)
    assert [first.examples_of(step) for step in range(5)] != [other.examples_of(step) for step in range(5)]
    assert torch.equal(first.batch(7).token_ids, again.batch(7).token_ids)


def test_members_of_a_group_share_out_an_epoch() -> None:
    alone = LessonLoader(lessons(60), 100, seed=1)
    pair = [LessonLoader(lessons(60), 100, seed=1, rank=rank, world_size=2) for rank in (0, 1)]
    for step in range(8):
        assert [loader.examples_of(step) for loader in pair] == [
            alone.examples_of(2 * step), alone.examples_of(2 * step + 1)
        ]  # fmt: skip


def test_batches_have_about_as_many_tokens_as_wanted() -> None:
    """Equal steps: none is left with a rest that would count as much as a full one."""
    loader = LessonLoader(lessons(500), 1_000, seed=1)
    sizes = [sum(loader.batch(step).lengths) for step in range(loader.batches_per_epoch)]
    assert max(sizes) <= 1_000 + 60
    assert min(sizes) >= 850


def test_an_example_longer_than_a_batch_is_one_by_itself() -> None:
    loader = LessonLoader([lesson(500), *lessons(50, longest=20)], 100, seed=1)
    rows = [loader.examples_of(step) for step in range(loader.batches_per_epoch)]
    assert (0,) in rows
    assert max(len(row) for row in rows if row != (0,)) > 5


def test_loaders_refuse_what_cannot_be_batched() -> None:
    with pytest.raises(SettingsError, match="batch_tokens"):
        LessonLoader(lessons(3), 0)
    with pytest.raises(DataError, match="holds no examples"):
        LessonLoader([], 100)


def test_groups_are_balanced() -> None:
    assert balanced([5, 4, 3, 2, 1], 2) == [[0, 3, 4], [1, 2]]


def test_no_example_of_a_batch_sees_another(tiny_shape: ModelShape) -> None:
    """Hidden states are those of the example alone."""
    model = Decoder(tiny_shape).initialize()
    examples = [lesson(length, first=3 * length) for length in (5, 9, 2, 13)]
    batch = lesson_batch(examples)
    segments = torch.repeat_interleave(torch.arange(len(batch.lengths)), torch.tensor(batch.lengths))[None]
    with torch.no_grad():
        packed = model(batch.token_ids, DenseContext(batch.positions, segments))[0].split(batch.lengths)
        for example, hidden in zip(examples, packed, strict=True):
            alone = lesson_batch([example])
            expected = model(alone.token_ids, DenseContext(alone.positions))[0]
            torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-5)  # only the order of sums differs
