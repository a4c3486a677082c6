"""Write a model as one GGUF file that llama.cpp opens, and say how far each number format is from ours.

In: an opened model.  Out: the file, written in one durable step, and a `GgufReport`.
Query and key rows are interleaved for architectures that want it (see model/gguf_model). Vectors and learned
positions stay float32, as llama.cpp wants them; rows whose length is no multiple of a block stay float16 and
are counted in the report.
"""

import math
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize, quantize

from tuition.core.durable import sync_file, sync_folder
from tuition.core.errors import ModelError
from tuition.core.progress import Progress, SilentProgress
from tuition.export.gguf_metadata import shape_metadata, tokenizer_metadata
from tuition.model.families import Family
from tuition.model.folder import ModelFolder
from tuition.model.gguf_model import permute
from tuition.model.gguf_shape import FREQUENCY_FACTORS, LONGROPE_FACTORS
from tuition.model.rope import plain_frequencies, rope_frequencies
from tuition.spec.counts import num_parameters
from tuition.spec.shape import ModelShape

GgufType = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]

_FILE_TYPES: dict[GgufType, LlamaFileType] = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
}
_VOCABULARY_TENSORS = ("embedding.weight", "head.weight")


@dataclass(frozen=True)
class GgufReport:
    """What was written."""

    path: Path
    type: GgufType
    num_bytes: int
    bits_per_weight: float
    """File bytes x 8 / parameters, head and metadata included."""
    relative_error: float
    """Root mean square of (written - ours) over root mean square of ours, over all matrices."""
    unquantised: tuple[str, ...]
    """Matrices that had to stay float16."""


def export_gguf(
    source: ModelFolder,
    target: Path,
    type: GgufType = "bf16",
    *,
    name: str = "model",
    progress: Progress | None = None,
) -> GgufReport:
    """Write `source` to the file `target`, which must not exist.

    In q4_0 the embedding and the head are q8_0: they carry the whole vocabulary, and llama.cpp gives them
    more bits too. Raises: ModelError for what GGUF or llama.cpp cannot express, or when `target` exists.
    """
    if target.exists():
        raise ModelError(target, "exists already", way_out="choose another name or remove it first")
    family = source.family
    metadata = {
        "general.name": name,
        "general.file_type": int(_FILE_TYPES[type]),
        "general.quantization_version": 2,
        **shape_metadata(source.shape, family),
        **tokenizer_metadata(source.tokenizer(), source.shape.vocab_size),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        errors, kept = _write(source, staged, type, metadata, progress or SilentProgress())
        sync_file(staged)
        os.replace(staged, target)
    finally:
        staged.unlink(missing_ok=True)
    sync_folder(target.parent)
    size = target.stat().st_size
    return GgufReport(
        path=target,
        type=type,
        num_bytes=size,
        bits_per_weight=size * 8 / num_parameters(source.shape),
        relative_error=errors,
        unquantised=kept,
    )


def _write(
    source: ModelFolder,
    path: Path,
    type: GgufType,
    metadata: dict[str, Any],
    progress: Progress,
) -> tuple[float, tuple[str, ...]]:
    """Write everything; return the relative error and the matrices that stayed float16."""
    shape, family = source.shape, source.family
    stored = family.gguf_layout.stored(shape)
    types = {name: _tensor_type(one.parts[0], one.shape, type) for name, one in stored.items()}
    writer = GGUFWriter(path, family.gguf_architecture)
    try:
        _add_metadata(writer, metadata)
        tables = _frequency_factors(shape)
        for name, factors in tables.items():
            writer.add_tensor_info(name, factors.shape, factors.dtype, factors.nbytes)
        for name, one in stored.items():
            _add_tensor_info(writer, name, one.shape, types[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for factors in tables.values():
            writer.write_tensor_data(factors)
        squared_error = squared = 0.0
        with progress.task("write", total=num_parameters(shape), unit="weights") as task:
            for name, one in stored.items():
                parts = [_in_file_order(source.tensor(ours), ours, shape, family) for ours in one.parts]
                values = np.concatenate(parts) if len(parts) > 1 else parts[0]
                written = _encode(np.ascontiguousarray(values), types[name])
                writer.write_tensor_data(written)
                if values.ndim > 1:
                    difference = dequantize(written, types[name]).reshape(values.shape) - values
                    squared_error += float(np.square(difference, dtype=np.float64).sum())
                    squared += float(np.square(values, dtype=np.float64).sum())
                task.advance(values.size)
    finally:
        writer.close()
    quantised = type in ("q8_0", "q4_0")
    halves = [name for name, kind in types.items() if quantised and kind == GGMLQuantizationType.F16]
    kept = tuple(ours for name in halves for ours in stored[name].parts)
    return math.sqrt(squared_error / squared) if squared else 0.0, kept


def _tensor_type(name: str, size: tuple[int, ...], type: GgufType) -> GGMLQuantizationType:
    if len(size) == 1 or name == "positions.weight":
        return GGMLQuantizationType.F32
    wanted = "q8_0" if type == "q4_0" and name in _VOCABULARY_TENSORS else type
    kind = GGMLQuantizationType[wanted.upper()]
    return kind if size[-1] % GGML_QUANT_SIZES[kind][0] == 0 else GGMLQuantizationType.F16


def _in_file_order(tensor: torch.Tensor, name: str, shape: ModelShape, family: Family) -> np.ndarray:
    """Query and key rows as llama.cpp turns them, norms with their offset added."""
    values = tensor.float().numpy()
    if shape.norm_offset and name.endswith("norm.weight"):
        values = values + np.float32(shape.norm_offset)
    heads = {"query": shape.num_heads, "key": shape.num_kv_heads}.get(name.split(".")[-2])
    if not family.permuted_in_gguf or heads is None:
        return values
    return permute(values.reshape(len(values), -1), heads).reshape(values.shape)


def _encode(values: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    if kind == GGMLQuantizationType.F32:
        return values
    if kind == GGMLQuantizationType.F16:
        return values.astype(np.float16)
    if kind == GGMLQuantizationType.BF16:
        rounded = torch.from_numpy(values).to(torch.bfloat16)
        return rounded.view(torch.uint8).numpy()
    return quantize(values, kind)


def _add_tensor_info(
    writer: GGUFWriter, name: str, size: tuple[int, ...], kind: GGMLQuantizationType
) -> None:
    block, width = GGML_QUANT_SIZES[kind]
    num_bytes = math.prod(size) // block * width
    writer.add_tensor_info(name, size, np.dtype(np.float32), num_bytes, raw_dtype=kind)


def _frequency_factors(shape: ModelShape) -> dict[str, np.ndarray]:
    """How much slower each pair turns than plain rotary positions: the tables that llama.cpp divides by."""
    if shape.rope.kind == "longrope":
        return {name: np.array(getattr(shape.rope, field), np.float32)
                for field, name in LONGROPE_FACTORS.items()}  # fmt: skip
    if shape.rope.kind != "llama3":
        return {}
    stretched, _ = rope_frequencies(shape.rope, shape.head_dim)
    return {FREQUENCY_FACTORS: plain_frequencies(shape.rope.theta, shape.head_dim) / stretched}


def _add_metadata(writer: GGUFWriter, metadata: dict[str, Any]) -> None:
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
