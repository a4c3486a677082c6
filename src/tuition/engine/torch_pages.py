"""Deterministic steps: every row is computed in a page of fixed size, whatever else is in the step.

The order of the sums of a matrix product depends on its shape, so the same token in a batch of another size
gets other last bits. Here every product has `PAGE` rows, and every attention call covers one sequence and
`PAGE` positions that begin at a multiple of `PAGE`, over as many keys. The result of a row then depends only
on its own sequence: not on neighbours, chunk borders, preemption, cached prefixes or drafts.

There are two layouts. `packed`: rows of all sequences fill pages one after the other. This needs products
whose rows do not depend on their place in the page; `rows_are_alike` tests that on the loaded network at
start. `alone`, where that does not hold: a page belongs to one sequence, and a token has row `position %
PAGE`. Decodes cost little more, because a page holds many of them; prompts cost several times as much,
because each of their pages reads all weights again. The native runner has no such cost. Source of the idea:
fixed reduction shapes for batch invariance (Thinking Machines, "Defeating nondeterminism in LLM inference",
2025).
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.engine.batch import StepBatch
from tuition.engine.torch_cache import BlockCache, slots_of, write_slots
from tuition.engine.torch_variants import TorchVariants
from tuition.model.decoder import Decoder

PAGE = 16
Layout = Literal["packed", "alone"]


@dataclass(slots=True)
class Tile:
    """The rows of one page that belong to one sequence and one range of `PAGE` positions."""

    rows: Tensor
    """(n,) places in the page."""
    places: Tensor
    """(n,) their places in the range, position % PAGE."""
    slots: Tensor
    """(end of the range,) the sequence's slots from its beginning, the zero slot behind its known tokens."""
    first: int
    """Position of the range's first token."""


def pages_of(batch: StepBatch, layout: Layout) -> list[np.ndarray]:
    """Rows of the step by page: (PAGE,) each, -1 for padding; a sequence's rows in order."""
    if layout == "packed":
        count = len(batch.token_ids)
        rows = np.full(-(-count // PAGE) * PAGE, -1)
        rows[:count] = np.arange(count)
        return list(rows.reshape(-1, PAGE))
    pages = []
    for begin, end in zip(batch.starts[:-1], batch.starts[1:], strict=True):
        rows = np.arange(begin, end)
        stretches = batch.positions[rows] // PAGE
        for stretch in np.unique(stretches):
            mine = rows[stretches == stretch]
            page = np.full(PAGE, -1)
            page[batch.positions[mine] % PAGE] = mine
            pages.append(page)
    return pages


class PageContext:
    """The context of one page."""

    def __init__(self, cache: BlockCache, positions: Tensor, slots: Tensor, tiles: list[Tile]) -> None:
        self._cache, self._positions, self._slots, self._tiles = cache, positions, slots, tiles
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    @property
    def positions(self) -> Tensor:
        return self._positions

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        self._cache.write(layer, self._slots, key[0], value[0])
        out = torch.zeros_like(query)
        for tile in self._tiles:
            stretch = query.new_zeros((PAGE, *query.shape[2:]))
            stretch[tile.places] = query[0, tile.rows]
            keys, values = self._cache.read(layer, tile.slots, 1)
            attended = F.scaled_dot_product_attention(
                stretch.transpose(0, 1)[None],  # (1, heads, PAGE, head_dim)
                keys,
                values,
                attn_mask=self._mask(tile.first, window, query),
                enable_gqa=query.shape[2] != keys.shape[1],
            )
            out[0, tile.rows] = attended[0].transpose(0, 1)[tile.places]
        return out

    def _mask(self, first: int, window: int | None, like: Tensor) -> Tensor:
        if (first, window) not in self._masks:
            end = first + PAGE
            distance = torch.arange(first, end, device=like.device)[:, None] - torch.arange(
                end, device=like.device
            )
            hidden = distance < 0
            if window is not None:
                hidden |= distance >= window
            mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
            self._masks[first, window] = mask.masked_fill_(hidden, float("-inf"))
        return self._masks[first, window]


def compute_pages(
    decoder: Decoder,
    cache: BlockCache,
    batch: StepBatch,
    layout: Layout,
    device: torch.device,
    variants: TorchVariants | None,
) -> Tensor:
    """Logits of the wanted rows, (num_wanted, vocab), in the decoder's dtype."""
    slots = write_slots(batch, cache.block_size)
    owner = np.repeat(np.arange(len(batch.context_lengths)), np.diff(batch.starts))
    wanted = np.zeros(len(batch.token_ids), bool)
    wanted[batch.logit_rows] = True
    found: list[Tensor] = []
    order: list[np.ndarray] = []
    for page in pages_of(batch, layout):
        real = page >= 0
        tokens = np.where(real, batch.token_ids[page], 0)
        positions = np.where(real, batch.positions[page], 0)
        context = PageContext(
            cache,
            torch.from_numpy(positions).to(device)[None],
            torch.from_numpy(np.where(real, slots[page], cache.spill_slot)).to(device),
            _tiles_of(cache, batch, page, owner, device),
        )
        chosen = [
            (one.name, torch.from_numpy((page >= one.begin) & (page < one.end)).to(device))
            for one in batch.variants
        ]
        with nullcontext() if variants is None else variants.rows(chosen):
            hidden = decoder(torch.from_numpy(tokens).to(device)[None], context)
        here = np.flatnonzero(real & wanted[page])
        if len(here):
            found.append(decoder.logits(hidden)[0, torch.from_numpy(here).to(device)])
            order.append(page[here])
    if not found:
        return torch.empty((0, decoder.shape.vocab_size), dtype=torch.float32, device=device)
    back = np.argsort(np.concatenate(order))  # `alone` changes the order of the step
    return torch.cat(found)[torch.from_numpy(back).to(device)]


def _tiles_of(
    cache: BlockCache, batch: StepBatch, page: np.ndarray, owner: np.ndarray, device: torch.device
) -> list[Tile]:
    places = np.flatnonzero(page >= 0)
    rows = page[places]
    keys = owner[rows].astype(np.int64) << 32 | batch.positions[rows] // PAGE
    tiles = []
    for key in np.unique(keys):
        mine = keys == key
        s, first = int(key >> 32), int(key & 0xFFFFFFFF) * PAGE
        known = int(batch.positions[rows[mine]].max()) + 1
        slots = np.full(first + PAGE, cache.zero_slot)
        slots[:known] = slots_of(batch.block_tables[s], cache.block_size, np.arange(known))
        tiles.append(
            Tile(
                rows=torch.from_numpy(places[mine]).to(device),
                places=torch.from_numpy(batch.positions[rows[mine]] % PAGE).to(device),
                slots=torch.from_numpy(slots).to(device),
                first=first,
            )
        )
    return tiles


class _NoContext:
    """No attention: each row's result is its own query. Tests everything else of the network."""

    def __init__(self, positions: Tensor) -> None:
        self.positions = positions

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        return query


def rows_are_alike(decoder: Decoder, device: torch.device) -> bool:
    """Whether the result of a row has the same bits at every place in the page, measured with this network.

    Kernels choose their algorithm by shapes, not by values, so the result holds for all tokens.
    """
    tokens = torch.arange(PAGE, device=device) * 7919 % decoder.shape.vocab_size
    positions = torch.arange(PAGE, device=device) * 31 % decoder.shape.context_length
    results = []
    for turn in range(PAGE):
        hidden = decoder(tokens.roll(turn)[None], _NoContext(positions.roll(turn)[None]))
        results.append(decoder.logits(hidden)[0].roll(-turn, 0))
    return all(torch.equal(results[0], other) for other in results[1:])
