"""Keys and values in blocks, as torch tensors, and attention over them for one engine step.

A slot is one position of one block: `block * block_size + offset`. Behind the slots of the blocks there are
two more: the zero slot is never written and is read where a shorter sequence is padded; the spill slot is
written by padding and never read. So no request reads what another one has left in the cache.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.engine.batch import StepBatch
from tuition.spec.shape import ModelShape

SHORT = 8
"""Sequences with at most this many rows in a step (decodes with their drafts) share one attention call."""


class BlockCache:
    """Keys and values of every layer, (slots, kv_heads, head_dim) each, initially zero."""

    def __init__(
        self, shape: ModelShape, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape, self.num_blocks, self.block_size = shape, num_blocks, block_size
        self.zero_slot = num_blocks * block_size
        self.spill_slot = self.zero_slot + 1
        size = (num_blocks * block_size + 2, shape.num_kv_heads, shape.head_dim)
        self.keys = [_zeros(size, dtype, device) for _ in range(shape.num_layers)]
        self.values = [_zeros(size, dtype, device) for _ in range(shape.num_layers)]

    @property
    def num_bytes(self) -> int:
        """Memory of the whole cache once every block has been written."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Put rows, (rows, kv_heads, head_dim), into their slots, (rows,)."""
        self.keys[layer].index_copy_(0, slots, key)
        self.values[layer].index_copy_(0, slots, value)

    def read(self, layer: int, slots: "Tensor | slice", count: int) -> tuple[Tensor, Tensor]:
        """Keys and values at (count * length,) slots: (count, kv_heads, length, head_dim) each."""
        if isinstance(slots, slice):
            key, value = self.keys[layer][slots], self.values[layer][slots]
        else:
            key = self.keys[layer].index_select(0, slots)
            value = self.values[layer].index_select(0, slots)
        size = (count, -1, self.shape.num_kv_heads, self.shape.head_dim)
        return key.view(size).transpose(1, 2), value.view(size).transpose(1, 2)


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU their pages take no memory until they are written."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    kinds = {torch.float32: np.float32, torch.bfloat16: np.uint16, torch.float16: np.uint16}
    return torch.from_numpy(np.zeros(size, kinds[dtype])).view(dtype)


def slots_of(table: np.ndarray, block_size: int, positions: np.ndarray) -> np.ndarray:
    """Slots of `positions` in a sequence's block table, int64."""
    return table[positions // block_size].astype(np.int64) * block_size + positions % block_size


def write_slots(batch: StepBatch, block_size: int) -> np.ndarray:
    """(num_tokens,) int64: where each row's key and value go."""
    owner = np.repeat(np.arange(len(batch.context_lengths)), np.diff(batch.starts))
    blocks = batch.block_tables[owner, batch.positions // block_size].astype(np.int64)
    return blocks * block_size + batch.positions % block_size


@dataclass(slots=True)
class Group:
    """Sequences whose attention is one call: rows of the step, and the slots that they read.

    `rows`: (count * most,) rows of the step, padded with row 0; a slice where they are neighbours.
    `kept`: which of the computed rows are real, or None for all.
    """

    count: int
    most: int
    rows: "Tensor | slice"
    kept: Tensor | None
    slots: "Tensor | slice"
    query_positions: Tensor
    """(count, most)"""
    length: int
    needs_mask: bool
    fresh: bool
    """None of it was cached before this step: its keys are the rows themselves."""
    masks: dict[int | None, Tensor | None] = field(default_factory=dict)

    def mask(self, window: int | None, repeats: int, dtype: torch.dtype) -> Tensor | None:
        """(count, 1, repeats * most, length), added to the scores: 0 where a key is seen, -inf elsewhere."""
        if window not in self.masks:
            self.masks[window] = self._make_mask(window, repeats, dtype)
        return self.masks[window]

    def _make_mask(self, window: int | None, repeats: int, dtype: torch.dtype) -> Tensor | None:
        if not self.needs_mask and (window is None or window >= self.length):
            return None
        keys = torch.arange(self.length, device=self.query_positions.device)
        distance = self.query_positions[:, :, None] - keys  # (count, most, length)
        hidden = distance < 0
        if window is not None:
            hidden |= distance >= window
        mask = torch.zeros(hidden.shape, dtype=dtype, device=keys.device).masked_fill_(hidden, float("-inf"))
        return mask[:, None].repeat(1, 1, repeats, 1)


class PagedContext:
    """The context of one step: every row of every sequence in one batch row, (1, num_tokens)."""

    def __init__(self, cache: BlockCache, positions: Tensor, slots: Tensor, groups: list[Group]) -> None:
        self._cache, self._positions, self._slots, self._groups = cache, positions, slots, groups

    @property
    def positions(self) -> Tensor:
        return self._positions

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        query, key, value = query[0], key[0], value[0]  # (rows, heads, head_dim)
        self._cache.write(layer, self._slots, key, value)
        if (
            len(self._groups) == 1
            and self._groups[0].kept is None
            and isinstance(self._groups[0].rows, slice)
        ):
            return self._attend_group(self._groups[0], layer, query, key, value, window)[None]
        out = torch.empty_like(query)
        for group in self._groups:
            attended = self._attend_group(group, layer, query, key, value, window)
            if isinstance(group.rows, slice) or group.kept is None:
                out[group.rows] = attended
            else:
                out[group.rows[group.kept]] = attended[group.kept]
        return out[None]

    def _attend_group(
        self, group: Group, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None
    ) -> Tensor:
        """Attention of one group: (count * most, heads, head_dim)."""
        count, most = group.count, group.most
        heads, head_dim = query.shape[1:]
        query = query[group.rows]
        if group.fresh and (window is None or window >= group.length):
            causal = F.scaled_dot_product_attention(
                query.transpose(0, 1)[None],  # (1, heads, rows, head_dim)
                key[group.rows].transpose(0, 1)[None],
                value[group.rows].transpose(0, 1)[None],
                is_causal=True,
                enable_gqa=heads != key.shape[1],
            )
            return causal[0].transpose(0, 1)
        keys, values = self._cache.read(layer, group.slots, count)
        kv_heads = keys.shape[1]
        repeats = heads // kv_heads
        # query heads that share a key head are stacked, so that keys are read once
        query = query.view(count, most, kv_heads, repeats, head_dim).permute(0, 2, 3, 1, 4)
        query = query.reshape(count, kv_heads, repeats * most, head_dim)
        mask = group.mask(window, repeats, query.dtype)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        attended = attended.view(count, kv_heads, repeats, most, head_dim).permute(0, 3, 1, 2, 4)
        return attended.reshape(count * most, heads, head_dim)


def build_context(cache: BlockCache, batch: StepBatch, device: torch.device) -> PagedContext:
    """Group the step's sequences: short ones of similar length together, each long chunk alone."""
    counts = np.diff(batch.starts)
    totals = batch.context_lengths + counts
    groups = [_chunk_group(cache, batch, s, device) for s in np.flatnonzero(counts > SHORT).tolist()]
    short = np.flatnonzero(counts <= SHORT)
    order = short[np.argsort(-totals[short], kind="stable")]
    begin = 0
    while begin < len(order):  # sequences less than half as long are not padded to this length
        longest = totals[order[begin]]
        end = begin + int(np.searchsorted(-totals[order[begin:]], -(longest // 2), side="right"))
        groups.append(_short_group(cache, batch, np.sort(order[begin:end]), device))
        begin = end
    return PagedContext(
        cache,
        torch.from_numpy(batch.positions).to(device)[None],
        torch.from_numpy(write_slots(batch, cache.block_size)).to(device),
        groups,
    )


def _chunk_group(cache: BlockCache, batch: StepBatch, s: int, device: torch.device) -> Group:
    begin, end = int(batch.starts[s]), int(batch.starts[s + 1])
    length = int(batch.context_lengths[s]) + end - begin
    return Group(
        count=1,
        most=end - begin,
        rows=slice(begin, end),
        kept=None,
        slots=_sequence_slots(cache, batch.block_tables[s], length, device),
        query_positions=torch.from_numpy(batch.positions[begin:end]).to(device)[None],
        length=length,
        needs_mask=True,
        fresh=int(batch.context_lengths[s]) == 0,
    )


def _sequence_slots(
    cache: BlockCache, table: np.ndarray, length: int, device: torch.device
) -> "Tensor | slice":
    """A lone sequence's slots; a slice, which copies nothing, where its blocks are neighbours."""
    used = table[: -(-length // cache.block_size)]
    if (used[1:] - used[:-1] == 1).all():
        start = int(used[0]) * cache.block_size
        return slice(start, start + length)
    return torch.from_numpy(slots_of(table, cache.block_size, np.arange(length))).to(device)


def _short_group(cache: BlockCache, batch: StepBatch, chosen: np.ndarray, device: torch.device) -> Group:
    count = len(chosen)
    sizes = batch.starts[chosen + 1] - batch.starts[chosen]
    totals = batch.context_lengths[chosen] + sizes
    most, length = int(sizes.max()), int(totals.max())
    offsets = np.arange(most)
    kept = offsets < sizes[:, None]  # (count, most)
    rows = np.where(kept, batch.starts[chosen][:, None] + offsets, batch.starts[chosen][:, None])
    positions = np.where(kept, batch.context_lengths[chosen][:, None] + offsets, 0)
    if count == 1:
        slots = _sequence_slots(cache, batch.block_tables[chosen[0]], length, device)
    else:
        slots = padded_slots(cache, batch.block_tables[chosen], totals, length)
        slots = torch.from_numpy(slots.reshape(-1)).to(device)
    first, flat = int(rows[0, 0]), rows.reshape(-1)
    together = bool(kept.all()) and bool((flat == np.arange(first, first + len(flat))).all())
    return Group(
        count=count,
        most=most,
        rows=slice(first, first + len(flat)) if together else torch.from_numpy(flat).to(device),
        kept=None if kept.all() else torch.from_numpy(kept.reshape(-1)).to(device),
        slots=slots,
        query_positions=torch.from_numpy(positions).to(device),
        length=length,
        needs_mask=most > 1 or bool((totals != length).any()),
        fresh=False,
    )


def padded_slots(cache: BlockCache, tables: np.ndarray, totals: np.ndarray, length: int) -> np.ndarray:
    """(count, length) int64: each sequence's slots, the zero slot behind its end."""
    positions = np.arange(length)
    columns = np.minimum(positions // cache.block_size, tables.shape[1] - 1)
    slots = tables[:, columns].astype(np.int64) * cache.block_size + positions % cache.block_size
    return np.where(positions < totals[:, None], slots, cache.zero_slot)
