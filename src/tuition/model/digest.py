"""One digest for a set of weights, whatever lossless type and file they are kept in."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

_CHUNK = 2**22
"""Values cast and hashed at a time: bounds the extra memory, nothing else."""


def weights_digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, shapes and values as float32, 64 hex digits; the order of the pairs does not
    matter.

    Weights kept in bfloat16 and the same weights cast to float32 have the same digest. Reads each tensor
    once.
    """
    lines = []
    for name, tensor in named:
        values = hashlib.sha256()
        for chunk in tensor.detach().reshape(-1).split(_CHUNK):
            values.update(chunk.to("cpu", torch.float32).contiguous().numpy().data)
        lines.append(f"{name} {list(tensor.shape)} {values.hexdigest()}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
