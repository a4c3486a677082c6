"""Attention for training on a CPU: short rows, where plain matrix products beat the fused kernel, and several
examples in one row.

In: positions and segments of a batch, or the lengths of its examples.  Out: a `Context` for the decoder.
bench/train_step.py times a step with each; for long rows the fused kernel is faster, since the scores
grow with the square of the length.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tuition.core.errors import ShapeError
from tuition.model.context import Context, DenseContext

LONGEST_PLAIN_ROW = 512


class ShortRowContext(DenseContext):
    """As `DenseContext`, by matrix products whose scores are kept for the backward pass."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        batch, seq, heads, head_dim = query.shape
        kv_heads = key.shape[2]
        group = heads // kv_heads
        # the query heads of one key head are rows of one product, so that no key is copied
        grouped = query.view(batch, seq, kv_heads, group, head_dim).permute(0, 2, 3, 1, 4)
        rows = grouped.reshape(batch * kv_heads, group * seq, head_dim)
        flat = (batch * kv_heads, seq, head_dim)
        key, value = (heads_.transpose(1, 2).reshape(flat) for heads_ in (key, value))
        mask = self._mask(window, query.dtype)  # (batch or 1, 1, seq, seq)
        if len(mask) > 1:
            mask = mask[:, :, None].expand(-1, kv_heads, group, seq, seq).reshape(-1, group * seq, seq)
        else:
            mask = mask[0].repeat(1, group, 1)  # (1, group * seq, seq)
        scores = torch.baddbmm(mask, rows, key.transpose(1, 2), alpha=head_dim**-0.5)
        attended = torch.bmm(torch.softmax(scores, dim=-1, dtype=scores.dtype), value)
        apart = attended.view(batch, kv_heads, group, seq, head_dim)
        return apart.permute(0, 3, 1, 2, 4).reshape(batch, seq, heads, head_dim)


class PackedContext:
    """Examples one behind the other in a single row. Each is attended to by itself, so that nothing leaks and
    no scores between two examples are computed.

    `positions`: (1, seq), from 0 in each example.  `lengths`: tokens of each example, in order.
    """

    def __init__(self, positions: Tensor, lengths: Sequence[int]) -> None:
        if tuple(positions.shape) != (1, sum(lengths)):
            raise ShapeError(
                "PackedContext", wanted=f"positions (1, {sum(lengths)})", got=tuple(positions.shape)
            )
        self.positions, self._lengths = positions, list(lengths)
        own = {length: torch.arange(length, device=positions.device)[None] for length in set(lengths)}
        self._contexts = {length: training_context(numbers) for length, numbers in own.items()}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        queries, keys, values = (heads.split(self._lengths, dim=1) for heads in (query, key, value))
        attended = [
            self._contexts[length].attend(layer, queries[index], keys[index], values[index], window)
            for index, length in enumerate(self._lengths)
        ]
        return torch.cat(attended, dim=1)


def training_context(positions: Tensor, segments: Tensor | None = None) -> Context:
    """The faster of the two for this device and row length."""
    is_short = positions.device.type == "cpu" and positions.shape[1] <= LONGEST_PLAIN_ROW
    return ShortRowContext(positions, segments) if is_short else DenseContext(positions, segments)
