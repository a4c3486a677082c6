"""Lay weights out as the native kernels want them. Needs torch; `native_weights` loads this when it packs.

In: a `ModelFolder` and formats.  Out: a filled buffer and the digest of the tensors that went into it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tuition_kernels
from torch import Tensor
from torch.nn.functional import pad

from tuition.core.errors import ModelError
from tuition.core.progress import Task
from tuition.engine.native_weights import Formats, kernel_config, padded_head
from tuition.model.digest import weights_digest
from tuition.model.folder import ModelFolder
from tuition.model.formats import BITS, IntegerFormat, from_blocks
from tuition.model.gguf_model import QuantisedRows
from tuition.model.quantize import quantize
from tuition.spec.shape import ModelShape

_BLOCK_ROWS = 16
"""Rows of a block of the layout (kernels/src/layout.hpp)."""


@dataclass(frozen=True)
class _Place:
    """Where a tensor goes: a part of the buffer, its first block of 16 rows there, step between blocks."""

    part: str
    first: int = 0
    step: int = 1


def _places(shape: ModelShape) -> dict[str, _Place]:
    """Our tensor names -> their places. Query, key and value share a matrix; gate and up are interleaved
    where there is a gate."""
    embedding = "head" if shape.tied_head else "embedding"
    places = {
        "embedding.weight": _Place(embedding),
        "positions.weight": _Place("positions"),
        "norm.weight": _Place("norm"),
        "norm.bias": _Place("norm_bias"),
        "head.weight": _Place("head"),
    }
    gated = int(shape.gated_mlp)
    head = padded_head(shape)
    query, key = shape.num_heads * head // _BLOCK_ROWS, shape.num_kv_heads * head // _BLOCK_ROWS
    for layer in range(shape.num_layers):
        at = f"layers.{layer}."
        for ours, part, first, step in (
            ("attention.query", "qkv", 0, 1), ("attention.key", "qkv", query, 1),
            ("attention.value", "qkv", query + key, 1), ("attention.output", "output", 0, 1),
            ("mlp.gate", "gate_up", 0, 2), ("mlp.down", "down", 0, 1),
            ("mlp.up", "gate_up" if gated else "up", gated, 1 + gated),
        ):  # fmt: skip
            places[f"{at}{ours}.weight"] = _Place(at + part, first, step)
            places[f"{at}{ours}.bias"] = _Place(f"{at}{part}_bias", first, step)
        for ours in shape.norms():
            part = at + ours.removeprefix("attention.")
            places[f"{at}{ours}.weight"], places[f"{at}{ours}.bias"] = _Place(part), _Place(part + "_bias")
    return places


def pack_into(buffer: np.ndarray, folder: ModelFolder, formats: Formats, task: Task) -> str:
    """Pack every tensor of `folder` into a zeroed buffer; returns the digest of the tensors packed.

    Raises: ModelError for a weight that is no finite number.
    """
    parts = {name: (format, offset, size) for name, format, _, _, offset, size in
             kernel_config(folder.shape, formats).parts()}  # fmt: skip
    places = _places(folder.shape)

    def packed() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in folder.tensors():
            _require_finite(folder, name, tensor)
            place, filled = places[name], with_padded_heads(name, tensor, folder.shape)
            format, offset, size = parts[place.part]
            if tensor.dim() == 1:
                vector = buffer[offset : offset + size].view(np.float32)
                _place_vector(vector, _as_computed(name, filled, folder.shape).numpy(), place)
            else:
                kept = None if filled is not tensor else folder.quantised_rows(name)
                _pack_matrix(buffer, offset, format, kept, filled, place)
            task.advance(tensor.numel() * 4, name)
            yield name, tensor

    return weights_digest(packed())


def _as_computed(name: str, vector: Tensor, shape: ModelShape) -> Tensor:
    """A bias, or what a norm multiplies by: with its offset, and the last one with the divisor of logits."""
    values = vector.float()
    if name.endswith("norm.weight"):
        values = values + shape.norm_offset
    return values / shape.logit_divisor if name.startswith("norm.") else values


def with_padded_heads(name: str, tensor: Tensor, shape: ModelShape) -> Tensor:
    """The tensor as it is, or with zeros in each head up to the size that the kernels take.

    Query and key turn in pairs of their halves, so each half is filled up, unless only the first dimensions
    turn. The kernels scale scores by the padded size; the query makes up for it.
    """
    size, padded = shape.head_dim, padded_head(shape)
    part = name.rpartition(".attention.")[2]
    if size == padded or part == name:
        return tensor
    values = tensor.float()
    if part == "output.weight":  # (hidden, heads * size): its columns are the values' rows
        return pad(values.unflatten(1, (-1, size)), (0, padded - size)).flatten(1)
    if not part.startswith(("query.", "key.", "value.")):
        return tensor
    if part.startswith("value.") or shape.rope.rotary_dim is not None:
        whole = values.unflatten(0, (-1, size)).movedim(1, -1)  # (heads, ..., size)
        filled = pad(whole, (0, padded - size)).movedim(-1, 1).flatten(0, 1)
    else:
        halves = values.unflatten(0, (-1, 2, size // 2)).movedim(2, -1)  # (heads, 2, ..., size / 2)
        filled = pad(halves, (0, (padded - size) // 2)).movedim(-1, 2).flatten(0, 2)
    return filled * (padded / size) ** 0.5 if part.startswith("query.") else filled


def _require_finite(folder: ModelFolder, name: str, tensor: Tensor) -> None:
    """Rounding makes a number of an infinity, and the softmax passes over a NaN: text would come of both."""
    if not all(end.isfinite() for end in tensor.aminmax()):
        raise ModelError(folder.path, f"holds a NaN or an infinity in {name}", way_out="fetch the file again")


def _place_vector(out: np.ndarray, values: np.ndarray, place: _Place) -> None:
    for row in range(0, len(values), _BLOCK_ROWS):
        at = (place.first + row // _BLOCK_ROWS * place.step) * _BLOCK_ROWS
        piece = values[row : row + _BLOCK_ROWS]
        out[at : at + len(piece)] = piece


def _pack_matrix(
    buffer: np.ndarray,
    offset: int,
    format: str,
    kept: QuantisedRows | None,
    tensor: Tensor,
    place: _Place,
) -> None:
    if format not in BITS:
        values = np.ascontiguousarray(tensor.float().numpy())
        tuition_kernels.pack_float(buffer, offset, format, values, place.first, place.step)
        return
    quantised = None if kept is None else from_blocks(kept.type, kept.rows)
    if quantised is None or quantised.format != format:
        wanted: IntegerFormat = "int8" if format == "int8" else "int4" if format == "int4" else "int4min"
        quantised = quantize(tensor, wanted)
    minima = None if quantised.minima is None else quantised.minima.view(np.uint16)
    tuition_kernels.pack_integer(
        buffer, offset, format, np.ascontiguousarray(quantised.q),
        np.ascontiguousarray(quantised.scales).view(np.uint16), minima, place.first, place.step,
    )  # fmt: skip
