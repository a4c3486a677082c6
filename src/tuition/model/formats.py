"""Number formats of quantised weights: groups, scales and what the integers mean. No torch.

In: raw GGUF blocks.  Out: `Quantised`, integers with float16 scales; `quantize` rounds other weights to them.
The formats are those of GGUF's Q8_0, Q4_0 and Q4_1, so that weights which were stored in one of these come
back exactly. How the integers are laid out for a processor is the runner's business (kernels/src/layout.hpp).
Source of the formats: ggml-quants.c of ggml (block_q8_0, block_q4_0, block_q4_1).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

IntegerFormat = Literal["int8", "int4", "int4min"]

GROUP = 32
"""Neighbouring columns of a row that share a scale."""

BITS = {"int8": 8.5, "int4": 4.5, "int4min": 5.0}
"""Bits per weight, scales included."""

ROUNDING_VERSION = 2
"""Raised whenever `quantize` makes other integers or scales of the same weights: kept files then lapse."""


@dataclass(frozen=True)
class Quantised:
    """A weight matrix as integers. What a weight is worth:

    int8: scale * q, with q in -127..127.  int4: scale * (q - 8), with q in 0..15.
    int4min: scale * q + minimum, with q in 0..15.
    """

    format: IntegerFormat
    q: np.ndarray
    """(rows, columns) int8"""
    scales: np.ndarray
    """(rows, groups) float16"""
    minima: np.ndarray | None
    """(rows, groups) float16 for int4min, else None"""


def from_blocks(type_name: str, rows: np.ndarray) -> Quantised | None:
    """Raw GGUF blocks, (rows, bytes per row) uint8, without any rounding; None for types of another kind.

    Q4_0 and Q4_1 keep column i of a group in the low and column i + 16 in the high nibble of byte i.
    """
    if type_name == "Q8_0":
        blocks = rows.reshape(len(rows), -1, 34)
        scales, q = blocks[:, :, :2], blocks[:, :, 2:].view(np.int8)
        if (q == -128).any():  # no writer makes it; the symmetric format has no place for it
            return None
        return Quantised("int8", q.reshape(len(rows), -1).copy(), _halves(scales), None)
    if type_name == "Q4_0":
        blocks = rows.reshape(len(rows), -1, 18)
        return Quantised("int4", _nibbles(blocks[:, :, 2:]), _halves(blocks[:, :, :2]), None)
    if type_name == "Q4_1":
        blocks = rows.reshape(len(rows), -1, 20)
        scales, minima = _halves(blocks[:, :, :2]), _halves(blocks[:, :, 2:4])
        return Quantised("int4min", _nibbles(blocks[:, :, 4:]), scales, minima)
    return None


def _halves(raw: np.ndarray) -> np.ndarray:
    """(rows, groups, 2) bytes -> (rows, groups) float16"""
    return np.ascontiguousarray(raw).view(np.dtype("<f2"))[:, :, 0]


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """(rows, groups, 16) bytes -> (rows, 32 groups) int8"""
    low, high = packed & 15, packed >> 4
    return np.concatenate((low, high), axis=2).reshape(len(packed), -1).view(np.int8)
