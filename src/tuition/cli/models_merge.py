"""`tuition models merge`: an adapter and its base become one plain model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tuition.books.books import open_books
from tuition.cli.models import MergeModel
from tuition.cli.models_change import open_base
from tuition.core.errors import NotFoundError, SettingsError
from tuition.core.units import format_bytes
from tuition.core.workspace import open_workspace
from tuition.model.adapter import Adapter
from tuition.model.adapter_folder import open_adapter, read_adapter_folder, require_base
from tuition.model.derived import save_derived
from tuition.model.folder import ModelFolder
from tuition.model.lora import merged_tensors
from tuition.model.save import SavedType
from tuition.plan.memory import require
from tuition.registry.names import check_name
from tuition.registry.registry import Registry, Version
from tuition.spec.counts import num_parameters

_WIDTHS: dict[SavedType, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
_BY_FORMAT: dict[str, SavedType] = {"BF16": "bfloat16", "F16": "float16"}


def merge(arguments: MergeModel) -> int:
    """Base and adapter as one plain model, with the lineage of both."""
    if arguments.name is None:
        raise SettingsError("--name", got=None, wanted="what to call the merged model")
    name = check_name(arguments.name)
    workspace = open_workspace(arguments.workspace).create()
    with open_books(workspace) as books:
        registry = Registry(workspace, books)
        version = registry.get(arguments.model)
        if version.kind != "adapter":
            adapters = [each.reference for each in registry.list() if each.kind == "adapter"]
            raise NotFoundError("adapter", arguments.model, adapters, if_none="the workspace has none")
        base = registry.base_of(version)
        folder = open_base(base)
        adapter = open_adapter(version.path, folder)
        require_base(adapter, folder, base.digest)
        saved_as = saved_type(folder) if arguments.save_as == "auto" else arguments.save_as
        need = num_parameters(folder.shape) * _WIDTHS[saved_as]
        require(f"the merged model in {saved_as}", need, way_out="use a machine with more memory")
        made = publish_merged(registry, name, (version, base), (folder, adapter), saved_as)
    print(f"{made.reference} is {base.reference} with {version.reference} merged into it: {made.path}")
    print(f"weights in {saved_as}, {format_bytes(need)}")
    if saved_as != "float32":
        print(f"the sums are rounded to {saved_as}; --save-as float32 keeps them exactly")
    return 0


def saved_type(folder: ModelFolder) -> SavedType:
    """The number format of the base where it has one that can be kept."""
    kept = folder.format.removeprefix("safetensors ").removeprefix("gguf ")
    return _BY_FORMAT.get(kept, "float32")


def publish_merged(
    registry: Registry,
    name: str,
    versions: tuple[Version, Version],
    parts: tuple[ModelFolder, Adapter],
    saved_as: SavedType,
) -> Version:
    """`versions`: the adapter and its base; `parts`: the opened base and the adapter."""
    (version, base), (folder, adapter) = versions, parts
    dtype = getattr(torch, saved_as)
    tensors = {name: tensor.to(dtype) for name, tensor in merged_tensors(folder, adapter)}
    lineage = replace(
        version.lineage,
        kind=None,
        parent=base.reference,
        parent_digest=base.digest,
        adapter=version.reference,
        adapter_digest=version.digest,
        evaluation=None,  # it was not this model that was evaluated
        source=None,
    )
    manifest: dict[str, Any] = {
        "lineage": {key: value for key, value in vars(lineage).items() if value is not None}
    }
    bill = lineage.bill or (read_adapter_folder(version.path).manifest or {}).get("bill")
    if bill is not None:
        manifest["bill"] = bill

    def write(target: Path) -> None:
        save_derived(target, folder, tensors, manifest, dtype=saved_as)

    return registry.publish(name, write, lineage)
