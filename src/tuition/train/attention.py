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
        group = heads // key.shape[2]
        if group > 1:
            key, value = key.repeat_interleave(group, dim=2), value.repeat_interleave(group, dim=2)
        flat = (batch * heads, seq, head_dim)
        query, key, value = (heads_.transpose(1, 2).reshape(flat) for heads_ in (query, key, value))
        mask = self._mask(window, query.dtype)  # (batch or 1, 1, seq, seq)
        if len(mask) > 1:
            mask = mask.expand(batch, heads, seq, seq).reshape(batch * heads, seq, seq)
        else:
            mask = mask[0].expand(batch * heads, seq, seq)
        scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=head_dim**-0.5)
        attended = torch.bmm(torch.softmax(scores, dim=-1, dtype=scores.dtype), value)
        return attended.view(batch, heads, seq, head_dim).transpose(1, 2)  # (batch, seq, heads, head_dim)


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
