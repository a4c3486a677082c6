"""Write a model that was made from another one: new weights, and everything else as the base has it.

In: the opened base, tensors under our names.  Out: a Hugging Face folder. Of a folder, the tokenizer's files,
the chat template and the generation defaults are the base's own, byte for byte, so that a request is rendered
and drawn as the base would; of a GGUF file they are made from its metadata.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tuition.core.durable import publish_folder, write_json
from tuition.core.errors import ModelError, ShapeError
from tuition.model.config import config_from_shape
from tuition.model.digest import weights_digest
from tuition.model.folder import INDEX, ModelFolder
from tuition.model.generation import GenerationDefaults
from tuition.model.manifest import MANIFEST, write_manifest
from tuition.model.mapped import inside
from tuition.model.save import DTYPES, SavedType, write_weights

_KEPT_SUFFIXES = {".json", ".jinja", ".txt", ".model"}
_KEPT_NAMES = ("LICENSE", "NOTICE")
_WRITTEN_ANEW = {INDEX, MANIFEST, "config.json"}
_DTYPE_KEYS = ("dtype", "torch_dtype")


def save_derived(
    folder: Path,
    base: ModelFolder,
    tensors: Mapping[str, Tensor],
    manifest: Mapping[str, Any] | None = None,
    *,
    dtype: SavedType = "bfloat16",
) -> Path:
    """Publish `folder` in one durable step; it must not exist yet.

    Raises: ShapeError when names or shapes are not those of the base; ModelError when the folder exists.
    """
    if folder.exists():
        raise ModelError(folder, "exists already", way_out="choose another name or remove it first")
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != base.shape.tensor_shapes():
        wrong = sorted(set(found.items()) ^ set(base.shape.tensor_shapes().items()))
        raise ShapeError("save_derived", wanted="exactly the tensors of the base", got=wrong[:4])

    def fill(staging: Path) -> None:
        write_weights(staging, tensors, base.family.layout.stored(base.shape), DTYPES[dtype])
        if base.path.is_dir() and (base.path / "config.json").is_file():
            _copy_settings(base.path, staging, dtype)
        else:
            _make_settings(base, staging, dtype)
        digest = weights_digest((name, tensor.to(DTYPES[dtype])) for name, tensor in tensors.items())
        write_manifest(staging, manifest or {}, digest)

    return publish_folder(folder, fill)


def _copy_settings(source: Path, staging: Path, dtype: SavedType) -> None:
    """Every file that is no weight and no code; config.json with the number format of the new weights."""
    for path in sorted(source.iterdir()):
        is_kept = path.suffix.lower() in _KEPT_SUFFIXES or path.name.startswith(_KEPT_NAMES)
        if is_kept and path.name not in _WRITTEN_ANEW and path.is_file():
            shutil.copyfile(inside(source, path.name), staging / path.name)
    config = json.loads(inside(source, "config.json").read_bytes())
    named = [key for key in _DTYPE_KEYS if key in config] or [_DTYPE_KEYS[0]]
    write_json(staging / "config.json", config | dict.fromkeys(named, dtype))


def _make_settings(base: ModelFolder, staging: Path, dtype: SavedType) -> None:
    tokenizer = base.tokenizer()
    stops = list(tokenizer.eos_ids)
    ends = {
        "bos_token_id": tokenizer.bos_id,
        "pad_token_id": None,
        "eos_token_id": stops[0] if len(stops) == 1 else stops or None,
    }
    write_json(
        staging / "config.json", config_from_shape(base.shape, base.family) | ends | {"torch_dtype": dtype}
    )
    write_json(staging / "generation_config.json", _generation_config(base.generation) | ends)
    tokenizer.save(staging)


def _generation_config(defaults: GenerationDefaults) -> dict[str, Any]:
    """As transformers writes them: greedy is `do_sample: false`."""
    values: dict[str, Any] = defaults.sampling()
    if values.get("temperature") == 0:
        values = {name: value for name, value in values.items() if name == "repetition_penalty"}
        values["do_sample"] = False
    elif values:
        values["do_sample"] = True
    if defaults.max_new_tokens is not None:
        values["max_new_tokens"] = defaults.max_new_tokens
    return values
