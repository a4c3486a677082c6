"""Values out of ggml's blocks: the simple formats in torch, the K-quants and others by the gguf package.

Layouts: ggml, src/ggml-common.h. A block is 32 weights: a scale (and a minimum) in float16, then the
quantised values; where there are four bits, the low halves of the bytes are the first 16 weights and the high
halves the rest.
"""

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

_BLOCK = 32
_SIMPLE = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"}
_NOT_FLOATS = {"I8", "I16", "I32", "I64", "F64"}


def values_of(rows: np.ndarray, kind: GGMLQuantizationType) -> Tensor:
    """Dequantise rows of raw blocks, (rows, bytes per row) uint8, to (rows, columns) float32.

    Raises: NotImplementedError for formats that hold no weights, or that nobody here can read.
    """
    if kind.name in _NOT_FLOATS:
        raise NotImplementedError(kind.name)
    if kind.name in _SIMPLE:
        return _simple(torch.from_numpy(np.ascontiguousarray(rows)), kind.name)
    return torch.from_numpy(np.ascontiguousarray(dequantize(np.ascontiguousarray(rows), kind)))


def _simple(rows: Tensor, name: str) -> Tensor:
    num_scales = 2 if name.endswith("_1") else 1
    num_high = 4 if name.startswith("Q5") else 0
    width = 2 * num_scales + num_high + (_BLOCK if name == "Q8_0" else _BLOCK // 2)
    blocks = rows.reshape(-1, width)
    scales = blocks[:, : 2 * num_scales].contiguous().view(torch.float16).float()  # (blocks, 1 or 2)
    quantised = blocks[:, 2 * num_scales + num_high :]
    if name == "Q8_0":
        values = quantised.contiguous().view(torch.int8).float()  # (blocks, 32)
    else:
        values = torch.empty(len(blocks), _BLOCK)
        values[:, : _BLOCK // 2] = quantised & 15
        values[:, _BLOCK // 2 :] = quantised >> 4
    if num_high:
        packed = blocks[:, 2 * num_scales : 2 * num_scales + num_high]
        bits = (packed[:, :, None] >> torch.arange(8, dtype=torch.uint8)) & 1  # bit j belongs to weight j
        values += bits.reshape(-1, _BLOCK) * 16
    if num_scales == 1 and name != "Q8_0":
        values -= 16 if num_high else 8
    values *= scales[:, :1]
    if num_scales == 2:
        values += scales[:, 1:]
    return values.reshape(len(rows), -1)
