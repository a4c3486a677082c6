"""What attention needs to know about the rest of the sequence, handed to the decoder as an argument.

The decoder computes queries, keys and values; a context says where tokens stand and which keys a query sees.
`DenseContext` serves training and evaluation: whole rows, nothing cached. The engine has its own over cache
blocks.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.core.errors import ShapeError


class Context(Protocol):
    """Positions of the tokens at hand, and attention over everything they may see."""

    @property
    def positions(self) -> Tensor:
        """(batch, seq) integers, counted from 0 in each document; (1, seq) when all rows agree."""
        ...

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        """Attention of one layer, scaled by head_dim ** -0.5.

        Shapes:
            query, and the result: (batch, seq, heads, head_dim)
            key, value: (batch, keys, kv_heads, head_dim), rotated already; the queries are those of the last
                tokens, usually of all
        `window` is the number of keys a query sees, itself included; None means all before it.
        """
        ...


class DenseContext:
    """Whole rows at once: each token sees itself and what is before it in its row and in its document.

    `positions`: (batch, seq) or (1, seq).  `segments`: (batch, seq) integers, equal within a document; None
    when every row is one document, which takes the fast causal path.
    """

    def __init__(self, positions: Tensor, segments: Tensor | None = None) -> None:
        if positions.dim() != 2 or (segments is not None and segments.dim() != 2):
            raise ShapeError(
                "DenseContext",
                wanted="positions and segments of shape (batch, seq)",
                got=(tuple(positions.shape), None if segments is None else tuple(segments.shape)),
            )
        if segments is not None and segments.shape[1] != positions.shape[1]:
            raise ShapeError(
                "DenseContext", wanted=f"segments of {positions.shape[1]} columns", got=tuple(segments.shape)
            )
        self._positions, self._segments = positions, segments
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}

    @classmethod
    def of_length(cls, seq_len: int, device: torch.device | str = "cpu") -> "DenseContext":
        """The context of rows that are one document each, of `seq_len` tokens, beginning at position 0."""
        return cls(torch.arange(seq_len, device=device)[None])

    @property
    def positions(self) -> Tensor:
        return self._positions

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        seq_len, num_keys = query.shape[1], key.shape[1]
        has_rule = self._segments is not None or (window is not None and window < num_keys)
        causal_only = not has_rule and seq_len == num_keys
        mask = None if causal_only else self._mask(window, query.dtype, seq_len)
        attended = F.scaled_dot_product_attention(
            query.transpose(1, 2),  # (batch, heads, seq, head_dim)
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=mask,
            is_causal=causal_only,
            enable_gqa=query.shape[2] != key.shape[2],
        )
        return attended.transpose(1, 2)  # (batch, seq, heads, head_dim)

    def _mask(self, window: int | None, dtype: torch.dtype, num_queries: int) -> Tensor:
        """What is added to the scores of the last queries: 0 where a key is seen, -inf elsewhere.

        Shape: (batch or 1, 1, num_queries, keys). Kept per window, since every layer asks again; additive,
        since a boolean mask is converted at each call.
        """
        if (window, dtype) not in self._masks:
            order = torch.arange(self._positions.shape[1], device=self._positions.device)
            distance = order[:, None] - order[None, :]  # (seq, seq), query minus key
            seen = distance >= 0
            if window is not None:
                seen &= distance < window
            if self._segments is not None:
                seen = seen & (self._segments[:, :, None] == self._segments[:, None, :])  # (batch, seq, seq)
            else:
                seen = seen[None]
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._masks[window, dtype] = mask.masked_fill_(~seen, float("-inf"))[:, None]
        return self._masks[window, dtype][:, :, -num_queries:]
