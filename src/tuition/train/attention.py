"""Attention for training on a CPU: short rows, where plain matrix products beat the fused kernel, and several
examples in one row.

In: positions and segments of a batch, or the groups of its examples.  Out: a `Context` for the decoder.
bench/train_step.py times a step with each; for long rows the fused kernel is faster, since the scores
grow with the square of the length.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tuition.core.errors import ShapeError
from tuition.data.packing import Group
from tuition.model.context import Context, DenseContext

LONGEST_PLAIN_ROW = 512


class ShortRowContext(DenseContext):
    """As `DenseContext`, by matrix products whose scores are kept for the backward pass."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        batch, seq, heads, head_dim = query.shape
        keys, kv_heads = key.shape[1:3]
        group = heads // kv_heads
        # the query heads of one key head are rows of one product, so that no key is copied
        grouped = query.view(batch, seq, kv_heads, group, head_dim).permute(0, 2, 3, 1, 4)
        rows = grouped.reshape(batch * kv_heads, group * seq, head_dim)
        flat = (batch * kv_heads, keys, head_dim)
        key, value = (heads_.transpose(1, 2).reshape(flat) for heads_ in (key, value))
        mask = self._mask(window, query.dtype, seq)  # (batch or 1, 1, seq, keys)
        if len(mask) > 1:
            mask = mask[:, :, None].expand(-1, kv_heads, group, seq, keys).reshape(-1, group * seq, keys)
        else:
            mask = mask[0].repeat(1, group, 1)  # (1, group * seq, keys)
        scores = torch.baddbmm(mask, rows, key.transpose(1, 2), alpha=head_dim**-0.5)
        attended = torch.bmm(torch.softmax(scores, dim=-1, dtype=scores.dtype), value)
        apart = attended.view(batch, kv_heads, group, seq, head_dim)
        return apart.permute(0, 3, 1, 2, 4).reshape(batch, seq, heads, head_dim)


class PackedContext:
    """Examples one behind the other in a single row. Each is attended to by itself, so that nothing leaks and
    no scores between two examples are computed. What examples share at their beginning stands once in the
    row, before them, and is seen by each.

    `positions`: (1, seq), from 0 in each example.  `groups`: what the row holds, in order.
    """

    def __init__(self, positions: Tensor, groups: Sequence[Group]) -> None:
        self._groups = tuple(groups)
        self._sizes = [size for group in groups for size in (group.shared, *group.own) if size]
        if tuple(positions.shape) != (1, sum(self._sizes)):
            raise ShapeError(
                "PackedContext", wanted=f"positions (1, {sum(self._sizes)})", got=tuple(positions.shape)
            )
        self.positions = positions
        lengths = {group.shared + own for group in groups for own in (0, *group.own)} - {0}
        own = {length: torch.arange(length, device=positions.device)[None] for length in lengths}
        self._contexts = {length: training_context(numbers) for length, numbers in own.items()}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        pieces = zip(*(heads.split(self._sizes, dim=1) for heads in (query, key, value)), strict=True)
        attended = []
        for group in self._groups:
            beginning = None
            if group.shared:
                queries, *beginning = next(pieces)
                context = self._contexts[group.shared]
                attended.append(context.attend(layer, queries, beginning[0], beginning[1], window))
            for own in group.own:
                queries, keys, values = next(pieces)
                if beginning is not None:
                    keys, values = (
                        torch.cat(both, dim=1) for both in zip(beginning, (keys, values), strict=True)
                    )
                context = self._contexts[group.shared + own]
                attended.append(context.attend(layer, queries, keys, values, window))
        return torch.cat(attended, dim=1)


def training_context(positions: Tensor, segments: Tensor | None = None) -> Context:
    """The faster of the two for this device and row length."""
    is_short = positions.device.type == "cpu" and positions.shape[1] <= LONGEST_PLAIN_ROW
    return ShortRowContext(positions, segments) if is_short else DenseContext(positions, segments)
