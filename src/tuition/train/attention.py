"""Attention for training on a CPU: short rows, where plain matrix products beat the fused kernel, and several
examples in one row.

In: positions and segments of a batch, or the groups of its examples.  Out: a `Context` for the decoder.
bench/train_step.py times a step with each; for long rows the fused kernel is faster, since the scores
grow with the square of the length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

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

    Examples of about the same length are computed as one padded batch: what is added behind an example is
    seen by none of its tokens.

    `positions`: (1, seq), from 0 in each example.  `groups`: what the row holds, in order.
    """

    def __init__(self, positions: Tensor, groups: Sequence[Group]) -> None:
        size = sum(group.shared + sum(group.own) for group in groups)
        if tuple(positions.shape) != (1, size):
            raise ShapeError("PackedContext", wanted=f"positions (1, {size})", got=tuple(positions.shape))
        self.positions = positions
        device = positions.device
        self._bundles = _bundles(groups, device)
        lengths = {bundle.num_keys for bundle in self._bundles}
        own = {length: torch.arange(length, device=device)[None] for length in lengths}
        self._contexts = {length: training_context(numbers) for length, numbers in own.items()}
        self._order = torch.cat([bundle.tokens for bundle in self._bundles]).argsort()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        attended = []
        for bundle in self._bundles:
            queries, keys, values = (bundle.padded(heads[0]) for heads in (query, key, value))
            if bundle.shared is not None:
                keys, values = (
                    torch.cat((heads[:, bundle.shared].expand(bundle.count, -1, -1, -1), own), dim=1)
                    for heads, own in ((key, keys), (value, values))
                )
            context = self._contexts[bundle.num_keys]
            made = context.attend(layer, queries, keys, values, window)
            attended.append(_Picked.apply(made.flatten(0, 1), bundle.kept))
        return _Picked.apply(torch.cat(attended), self._order)[None]


@dataclass(frozen=True, eq=False)
class _Bundle:
    """Stretches of a row that are computed as one batch, padded to the longest."""

    tokens: Tensor
    """(kept,): places of the tokens in the row."""
    places: Tensor
    """(count * longest,): the token that stands at each place of the batch, any token where nothing does."""
    kept: Tensor
    """(kept,): places of the tokens in the flattened batch."""
    count: int
    num_keys: int
    """Of each stretch: the longest, and what is shared."""
    shared: slice | None
    """Where the common beginning stands in the row."""

    def padded(self, heads: Tensor) -> Tensor:
        """(seq, heads, head_dim) -> (count, longest, heads, head_dim)"""
        made = _Spread.apply(heads, self.places, self.tokens, self.kept)
        return made.view(self.count, -1, *heads.shape[1:])


_LEAST_FILLED = 0.6
"""Length of a stretch, as a share of the longest in its bundle: scores grow with the square of the length."""


def _bundles(groups: Sequence[Group], device: torch.device) -> list[_Bundle]:
    """The beginnings, and the examples behind each or behind none, in bundles of about the same length."""
    alone: list[_Stretch] = []
    bundles: list[_Bundle] = []
    start = 0
    for group in groups:
        behind = alone
        if group.shared:
            alone.append(_Stretch(start, group.shared))
            behind = []
        first, start = start, start + group.shared
        for own in group.own:
            behind.append(_Stretch(start, own))
            start += own
        if group.shared:
            shared = slice(first, first + group.shared)
            bundles += [_bundle(part, shared, device) for part in _alike(behind)]
    return bundles + [_bundle(part, None, device) for part in _alike(alone)]


class _Stretch(NamedTuple):
    start: int
    length: int


def _alike(stretches: Sequence[_Stretch]) -> list[list[_Stretch]]:
    """Parts of about the same length, the longest first."""
    parts: list[list[_Stretch]] = []
    for stretch in sorted(stretches, key=lambda stretch: -stretch.length):
        if not parts or stretch.length < _LEAST_FILLED * parts[-1][0].length:
            parts.append([])
        parts[-1].append(stretch)
    return parts


def _bundle(part: Sequence[_Stretch], shared: slice | None, device: torch.device) -> _Bundle:
    longest = part[0].length
    offsets = torch.arange(longest, device=device)
    starts, lengths = (torch.tensor(numbers, device=device)[:, None] for numbers in zip(*part, strict=True))
    is_token = offsets < lengths  # (count, longest)
    places = starts + torch.minimum(offsets, lengths - 1)
    num_shared = 0 if shared is None else shared.stop - shared.start
    return _Bundle(
        tokens=places[is_token],
        places=places.flatten(),
        kept=is_token.flatten().nonzero()[:, 0],
        count=len(part),
        num_keys=num_shared + longest,
        shared=shared,
    )


class _Spread(Function):
    """Rows at `places`. Its gradient is that of the rows at `kept` of the result, which stand at `tokens`:
    the others are padding, and nothing depends on them."""

    @staticmethod
    def forward(  # pyrefly: ignore[bad-override]
        ctx: Any, rows: Tensor, places: Tensor, tokens: Tensor, kept: Tensor
    ) -> Tensor:
        ctx.save_for_backward(tokens, kept)
        ctx.num_rows = len(rows)
        return rows.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyrefly: ignore[bad-override]
        tokens, kept = ctx.saved_tensors
        found = grad.new_zeros(ctx.num_rows, *grad.shape[1:])
        return found.index_copy_(0, tokens, grad.index_select(0, kept)), None, None, None


class _Picked(Function):
    """Rows at `kept`, each at most once."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, kept: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        ctx.save_for_backward(kept)
        ctx.num_rows = len(rows)
        return rows.index_select(0, kept)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyrefly: ignore[bad-override]
        (kept,) = ctx.saved_tensors
        return grad.new_zeros(ctx.num_rows, *grad.shape[1:]).index_copy_(0, kept, grad), None


def training_context(positions: Tensor, segments: Tensor | None = None) -> Context:
    """The faster of the two for this device and row length."""
    is_short = positions.device.type == "cpu" and positions.shape[1] <= LONGEST_PLAIN_ROW
    return ShortRowContext(positions, segments) if is_short else DenseContext(positions, segments)
