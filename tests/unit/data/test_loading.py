"""Rows, order and batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.core.errors import DataError, SettingsError
from tuition.data.loader import Loader
from tuition.data.rows import IGNORED, RowCutter
from tuition.data.sampler import Sampler
from tuition.data.shards import Markers, PartWriter, TokenSet, open_part

FEW = settings(max_examples=30, deadline=None)
SEPARATOR = Markers(None, None, 0)
OWN_ENDS = Markers(1, 2, None)


def token_set(folder: Path, documents: list[list[int]], markers: Markers = SEPARATOR) -> TokenSet:
    with PartWriter(folder, "train", markers, 1_000) as writer:
        for number, ids in enumerate(documents):
            writer.add(np.array(ids, dtype=np.uint32), len(ids), f"d{number}", begins=True)
        return open_part(folder, "train", writer.finish())


def long_set(folder: Path, length: int) -> TokenSet:
    return token_set(folder, [list(range(3, 3 + length))])


@FEW
@given(
    num_samples=st.integers(1, 300),
    batch_size=st.integers(1, 17),
    world=st.integers(1, 4),
    seed=st.integers(0, 2**64),
)
def test_every_sample_comes_once_in_every_epoch(
    num_samples: int, batch_size: int, world: int, seed: int
) -> None:
    ranks = [Sampler(num_samples, batch_size, seed, rank, world) for rank in range(world)]
    seen: dict[int, list[int]] = {}
    for step in range(-(-2 * num_samples // (batch_size * world))):
        for sampler in ranks:
            for epoch, sample in zip(*sampler.step(step), strict=True):
                seen.setdefault(int(epoch), []).append(int(sample))
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(num_samples))


def test_orders_differ_between_epochs_and_seeds_and_never_between_runs() -> None:
    places = np.arange(1_000)
    orders = [Sampler(1_000, 8, seed).at(epoch, places) for seed in (1, 2) for epoch in (0, 1)]
    assert all(np.mean(a == b) < 0.02 for i, a in enumerate(orders) for b in orders[i + 1 :])
    assert np.array_equal(orders[0], Sampler(1_000, 8, 1).at(0, places))
    assert orders[0][:5].tolist() == [689, 713, 748, 790, 536], "resuming an old run depends on this order"


def test_the_order_is_spread_evenly() -> None:
    """Mean place distance of neighbours in a random order is a third of its length; three standard errors
    allowed."""
    order = Sampler(10_007, 1, 5).at(0, np.arange(10_007))
    gap = np.abs(np.diff(order)).mean() / 10_007
    assert abs(gap - 1 / 3) < 3 * 0.2357 / 100
    assert abs(np.corrcoef(order, np.arange(10_007))[0, 1]) < 0.03


@pytest.mark.parametrize("wrong", [{"num_samples": 0}, {"batch_size": 0}, {"rank": 2, "world_size": 2}])
def test_a_sampler_refuses_the_impossible(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingsError):
        Sampler(**({"num_samples": 3, "batch_size": 1} | wrong))


@FEW
@given(data=st.data())
def test_a_row_keeps_documents_apart(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    documents = [[10 + number] * length for number, length in enumerate(lengths)]
    markers = data.draw(st.sampled_from([SEPARATOR, OWN_ENDS]))
    tokens = token_set(tmp_path_factory.mktemp("rows"), documents, markers)
    seq_len = data.draw(st.integers(1, tokens.num_tokens - 1))
    start = data.draw(st.integers(0, tokens.num_tokens - 1 - seq_len))
    rows = RowCutter(tokens, seq_len).cut(np.array([start]))
    stream, begins = np.asarray(tokens.tokens).astype(int), set(tokens.document_starts.tolist())
    segment, position = 0, 0
    for i in range(seq_len):
        if i and start + i in begins:
            segment, position = segment + 1, 0
        assert rows.token_ids[0, i] == stream[start + i]
        assert rows.positions[0, i] == position
        assert (0 if rows.segments is None else rows.segments[0, i]) == segment
        crosses = start + i + 1 in begins and markers.separator is None
        assert rows.targets[0, i] == (IGNORED if crosses else stream[start + i + 1])
        position += 1
    assert (rows.segments is None) == (segment == 0)


def test_a_separator_begins_what_follows_and_ends_what_was(tmp_path: Path) -> None:
    tokens = token_set(tmp_path, [[5, 6], [7]])
    assert np.asarray(tokens.tokens).tolist() == [0, 5, 6, 0, 7, 0]
    assert np.asarray(tokens.document_starts).tolist() == [0, 3]
    rows = RowCutter(tokens, 5).cut(np.array([0]))
    assert rows.targets.tolist() == [[5, 6, 0, 7, 0]]
    assert rows.positions.tolist() == [[0, 1, 2, 0, 1]]
    assert rows.segments is not None
    assert rows.segments.tolist() == [[0, 0, 0, 1, 1]]


def test_own_beginnings_are_not_taught_from_another_documents_end(tmp_path: Path) -> None:
    tokens = token_set(tmp_path, [[5], [7]], OWN_ENDS)
    assert np.asarray(tokens.tokens).tolist() == [1, 5, 2, 1, 7, 2]
    assert RowCutter(tokens, 5).cut(np.array([0])).targets.tolist() == [[5, 2, IGNORED, 7, 2]]


@FEW
@given(
    length=st.integers(8, 400), seq_len=st.integers(1, 7), seed=st.integers(0, 99), epoch=st.integers(0, 50)
)
def test_windows_of_an_epoch_never_overlap_or_leave_the_text(
    tmp_path_factory: pytest.TempPathFactory, length: int, seq_len: int, seed: int, epoch: int
) -> None:
    cutter = RowCutter(long_set(tmp_path_factory.mktemp("set"), length), seq_len, seed)
    samples = np.arange(cutter.num_samples)
    starts = cutter.starts(np.full(len(samples), epoch), samples)
    assert np.array_equal(np.diff(starts), np.full(len(starts) - 1, seq_len))
    assert starts[0] >= 0
    assert starts[-1] + seq_len + 1 <= cutter.tokens.num_tokens
    unused = cutter.tokens.num_tokens - 1 - cutter.num_samples * seq_len
    assert unused < 2 * seq_len


def test_a_batch_is_a_function_of_its_step(tmp_path: Path) -> None:
    tokens = long_set(tmp_path, 500)
    one, two = Loader(tokens, 4, 16, seed=3), Loader(tokens, 4, 16, seed=3)
    batch = one.batch(11)
    for step, other in zip(range(12), two.batches(), strict=False):
        if step == 11:
            assert torch.equal(batch.token_ids, other.token_ids)
            assert torch.equal(batch.targets, other.targets)
    assert batch.token_ids.shape == batch.targets.shape == batch.positions.shape == (4, 16)
    assert batch.token_ids.dtype == batch.targets.dtype == torch.int64
    assert torch.equal(batch.token_ids[:, 1:], batch.targets[:, :-1])
    assert batch.segments is None
    assert batch.num_tokens == 64


def test_a_batch_counts_only_what_is_taught(tmp_path: Path) -> None:
    loader = Loader(token_set(tmp_path, [[5, 6]] * 40, OWN_ENDS), 3, 20)
    batch = loader.batch(0)
    assert batch.segments is not None
    assert batch.num_tokens == int((batch.targets != -100).sum()) < 60


def test_ranks_share_a_step_without_sharing_samples(tmp_path: Path) -> None:
    tokens = long_set(tmp_path, 500)
    whole = Loader(tokens, 4, 8, seed=1).batch(2)
    halves = [Loader(tokens, 2, 8, seed=1, rank=rank, world_size=2).batch(2) for rank in range(2)]
    assert torch.equal(whole.token_ids, torch.cat([half.token_ids for half in halves]))


def test_too_few_tokens_for_one_row_are_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"7 tokens.*needs 129"):
        Loader(long_set(tmp_path, 5), 1, 128)


def test_large_vocabularies_get_wider_ids(tmp_path: Path) -> None:
    with PartWriter(tmp_path, "train", SEPARATOR, 70_000) as writer:
        writer.add(np.array([69_999], dtype=np.uint32), 4, "d", begins=True)
        assert int(open_part(tmp_path, "train", writer.finish()).tokens[1]) == 69_999


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_shares_of_a_batch_are_its_rows(tmp_path: Path, count: int) -> None:
    tokens = token_set(tmp_path, [list(range(3, 40)), list(range(40, 90))], OWN_ENDS)
    batch = Loader(tokens, batch_size=5, seq_len=12).batch(0)
    shares = batch.shares(count)
    assert len(shares) == min(count, 5)
    for name in ("token_ids", "targets", "positions"):
        assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(batch, name))
    if batch.segments is not None:
        parts = [share.segments for share in shares if share.segments is not None]
        assert torch.equal(torch.cat(parts), batch.segments)
    assert sum(share.num_tokens for share in shares) == batch.num_tokens
    assert [i for share in shares for i in share.sample_ids] == list(batch.sample_ids)
