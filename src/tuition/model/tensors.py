"""Weights out of opened files, as tensors. `folder` loads this when a tensor is first read.

In: a `SafetensorsFile` or a `GgufModel`, and a name.  Out: a tensor, a view of the file where possible.
"""

import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from tuition.core.errors import ModelError
from tuition.model.gguf_blocks import values_of
from tuition.model.gguf_model import GgufModel
from tuition.model.names import Place
from tuition.model.safetensors_file import SafetensorsFile

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def safetensors_tensor(file: SafetensorsFile, name: str) -> Tensor:
    """A view of the mapped file; copy it to keep it. Raises: ModelError for types that are not floats."""
    entry, view = file.entries[name], file.content(name)
    dtype = _DTYPES[entry.dtype]
    if entry.num_bytes == 0:
        return torch.empty(entry.shape, dtype=dtype)
    # The header's length is padded to 8 in files of today, not in all of old; torch wants aligned memory.
    aligned = bytearray(view) if entry.start % dtype.itemsize else view
    return torch.frombuffer(aligned, dtype=dtype).view(entry.shape)


def part_of(stored: Tensor, place: Place) -> Tensor:
    """One of our tensors out of the one that a file keeps; a view where that is possible."""
    outputs = stored.t() if place.is_turned else stored
    part = outputs if place.is_whole else outputs[place.first : place.first + place.count]
    return part.contiguous()


def gguf_tensor(model: GgufModel, name: str) -> Tensor:
    """One tensor under our name; float32 where it was quantised. Raises: ModelError for unknown types."""
    entry, rows, size = model.entry(name), model.ordered_rows(name), model.shape.tensor_shapes()[name]
    if entry.type.name in _DTYPES and entry.type.name != "F64":
        values = torch.frombuffer(bytearray(rows), dtype=_DTYPES[entry.type.name]).view(size)
    else:
        try:
            values = values_of(rows, GGMLQuantizationType[entry.type.name]).view(size)
        except NotImplementedError as error:
            problem = f"tensor {model.place(name).name!r} has type {entry.type.name}"
            raise ModelError(model.path, problem, way_out="use another quantisation") from error
    offset = model.shape.norm_offset  # files hold the weight of a norm with the offset added
    return values.float() - offset if offset and name.endswith("norm.weight") else values
