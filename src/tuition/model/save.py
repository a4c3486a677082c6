"""Write a model as a Hugging Face folder that transformers, vLLM and llama.cpp's converter open without our
help.

In: a decoder or tensors under our names, and a tokenizer.  Out: config.json, generation_config.json,
safetensors (in shards when large), the tokenizer's files, and `tuition.json` with the digest of each of them.
"""

import errno
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tuition.core.durable import publish_folder, write_json
from tuition.core.errors import ModelError, ShapeError
from tuition.model.config import config_from_shape
from tuition.model.decoder import Decoder
from tuition.model.digest import weights_digest
from tuition.model.families import choose_family, family_named
from tuition.model.folder import INDEX, WEIGHTS
from tuition.model.manifest import write_manifest
from tuition.model.names import StoredTensor
from tuition.spec.shape import ModelShape
from tuition.tokenizer.tokenizer import Tokenizer

SavedType = Literal["float32", "bfloat16", "float16"]
DTYPES: dict[SavedType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
MOST_SHARD_BYTES = 4 * 2**30
"""Larger models become several files, which transformers can load one at a time."""


def save_model(
    folder: Path,
    weights: Decoder | Mapping[str, Tensor],
    shape: ModelShape,
    tokenizer: Tokenizer | None,
    manifest: Mapping[str, Any] | None = None,
    *,
    family: str | None = None,
    dtype: SavedType = "bfloat16",
) -> Path:
    """Publish `folder` in one durable step; it must not exist yet.

    `manifest` is lineage, recipe and bill, plain JSON, kept in `tuition.json` beside the digests. `family`
    None takes the first that can express the shape. Raises: ShapeError when names or shapes are not those of
    `shape`, or the family cannot say them; ModelError when the folder exists.
    """
    if folder.exists():
        raise ModelError(folder, "exists already", way_out="choose another name or remove it first")
    tensors = weights.state_dict() if isinstance(weights, Decoder) else weights
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != shape.tensor_shapes():
        wrong = sorted(set(found.items()) ^ set(shape.tensor_shapes().items()))
        raise ShapeError("save_model", wanted="exactly the tensors of the shape", got=wrong[:4])
    chosen = choose_family(shape) if family is None else family_named(family)
    config = config_from_shape(shape, chosen)
    config |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "torch_dtype": dtype}
    if tokenizer is not None:
        stops = list(tokenizer.eos_ids)
        config["bos_token_id"] = tokenizer.bos_id
        config["eos_token_id"] = stops[0] if len(stops) == 1 else stops or None
    generation = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}

    def fill(staging: Path) -> None:
        digest = weights_digest(
            (name, tensor.to(DTYPES[dtype]) if tensor.dtype != DTYPES[dtype] else tensor)
            for name, tensor in tensors.items()
        )
        write_weights(staging, tensors, chosen.layout.stored(shape), DTYPES[dtype])
        write_json(staging / "config.json", config)
        write_json(staging / "generation_config.json", generation)
        if tokenizer is not None:
            tokenizer.save(staging)
        write_manifest(staging, manifest or {}, digest)

    return publish_folder(folder, fill)


def write_weights(
    folder: Path, tensors: Mapping[str, Tensor], stored: Mapping[str, StoredTensor], dtype: torch.dtype
) -> None:
    """One file, or shards with an index when the tensors are larger than `MOST_SHARD_BYTES` together."""
    shards = list(_split(stored, dtype.itemsize))
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        name = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        shard = {theirs: _joined(tensors, stored[theirs], dtype) for theirs in names}
        try:
            save_file(shard, folder / name, metadata={"format": "pt"})
        except SafetensorError as error:  # its own name for whatever the disk says
            raise OSError(errno.EIO, str(error), str(folder / name)) from error
        weight_map |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        total = sum(math.prod(tensor.shape) for tensor in stored.values()) * dtype.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / INDEX, index)


def _joined(tensors: Mapping[str, Tensor], stored: StoredTensor, dtype: torch.dtype) -> Tensor:
    """The tensor that a file keeps."""
    parts = [tensors[ours].detach().to("cpu", dtype) for ours in stored.parts]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return (whole.t() if stored.is_turned else whole).contiguous()


def _split(stored: Mapping[str, StoredTensor], width: int) -> Iterable[list[str]]:
    names: list[str] = []
    held = 0
    for name, tensor in stored.items():
        size = math.prod(tensor.shape) * width
        if names and held + size > MOST_SHARD_BYTES:
            yield names
            names, held = [], 0
        names.append(name)
        held += size
    yield names
