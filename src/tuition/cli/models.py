"""`tuition models`: the models and adapters of the workspace. `models_show` describes one, `models_change`
adds, merges and removes.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from tuition.cli.arguments import Common, choose, parse
from tuition.core.errors import ModelError
from tuition.core.units import format_bytes, format_count
from tuition.core.workspace import open_workspace

if TYPE_CHECKING:
    from tuition.registry.registry import Registry, Version

ACTIONS = {
    "list": "every model and adapter of the workspace: kind, size, context, score",
    "show": "one model or adapter: shape, lineage, scores",
    "add": "register a folder, a GGUF file, an adapter of peft, or a model of the hub (hf:ORG/NAME)",
    "merge": "make a plain model of an adapter and its base",
    "remove": "remove one version (name@version) or, with --yes, all of a name; bills stay",
}

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]


@dataclass(frozen=True, kw_only=True)
class ListModels(Common):
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """One JSON object per line instead of a table."""


@dataclass(frozen=True, kw_only=True)
class ShowModel(Common):
    model: Model
    """Name, name@version, or the path of a folder or GGUF file."""
    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Read every file and compare its digest with the one that was registered."""


@dataclass(frozen=True, kw_only=True)
class AddModel(Common):
    name: Name
    """What to call it: letters a-z, digits, dot, dash, underscore. A model of the Hugging Face hub may stand
    alone and is then called as its repository: tuition models add hf:ORG/NAME"""
    path: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")] = None
    """A Hugging Face folder (config.json, *.safetensors, tokenizer.json), a GGUF file, a folder that peft
    wrote (adapter_config.json, adapter_model.safetensors), or hf:ORG/NAME[:FILE][@REVISION] on the hub."""
    base: str | None = None
    """For an adapter: the registered model that it was trained on. Default: the one that the adapter
    names."""
    link: tyro.conf.FlagCreatePairsOff[bool] = False
    """Leave the files where they are instead of copying them into the workspace."""


@dataclass(frozen=True, kw_only=True)
class MergeModel(Common):
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTER")]
    """Name or name@version of an adapter."""
    name: str | None = None
    """What to call the merged model."""
    save_as: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of its weights. auto: that of the base, and float32 where the base is quantised. In
    float32 the merged model computes exactly what base and adapter do; fewer bits round the sum."""


@dataclass(frozen=True, kw_only=True)
class RemoveModel(Common):
    model: Model
    """name@version, or a name for all its versions."""
    yes: tyro.conf.FlagCreatePairsOff[bool] = False
    """Remove all versions of a name, and the adapters of what is removed, without asking."""


KINDS: dict[str, type[ListModels | ShowModel | AddModel | MergeModel | RemoveModel]] = {
    "list": ListModels,
    "show": ShowModel,
    "add": AddModel,
    "merge": MergeModel,
    "remove": RemoveModel,
}


def run(argv: list[str]) -> int:
    """List, show, add, merge or remove."""
    action, rest = choose(ACTIONS, argv, verb="models", default="list")
    arguments = parse(KINDS[action], rest, verb=f"models {action}", description=ACTIONS[action])
    if isinstance(arguments, ListModels):
        return list_models(arguments)
    # each loads what it needs, after help was printed
    if isinstance(arguments, ShowModel):
        from tuition.cli.models_show import show

        return show(arguments)
    if isinstance(arguments, MergeModel):
        from tuition.cli.models_merge import merge

        return merge(arguments)
    from tuition.cli import models_change

    if isinstance(arguments, AddModel):
        return models_change.add(arguments)
    return models_change.remove(arguments)


def list_models(arguments: ListModels) -> int:
    from tuition.books.books import open_books
    from tuition.registry.registry import Registry

    workspace = open_workspace(arguments.workspace).create()
    with open_books(workspace) as books:
        registry = Registry(workspace, books)
        rows = [row_of(registry, version) for version in registry.list()]
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
        return 0
    if not rows:
        print(
            f"No models in {workspace.root} yet: `tuition train` makes one, `tuition models add` takes one."
        )
        return 0
    table = [("model", "kind", "parameters", "size", "context", "score", "made"), *map(cells, rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        words = (
            f"{word:>{width}}" if column in (2, 3, 4) else f"{word:<{width}}"
            for column, (word, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(words).rstrip())
    for row in rows:
        if row["problem"]:
            print(f"{row['name']}@{row['version']}: {row['problem']}", file=sys.stderr)
    return 0


def row_of(registry: "Registry", version: "Version") -> dict[str, Any]:
    """What the list says of a version. If it cannot be opened its sizes are None and `problem` says why."""
    score = next(iter(registry.scores(version)), None)
    row: dict[str, Any] = {
        "name": version.name,
        "version": version.version,
        "path": str(version.path),
        "digest": version.digest,
        "created": when(version.created_unix_ns),
        "run": version.lineage.run_id,
        "source": version.lineage.source,
        "base": version.lineage.parent if version.kind == "adapter" else None,
        "score": None
        if score is None
        else {"task": score.task, "value": score.value, "stderr": score.stderr, "unit": score.unit},
    }
    try:
        return row | (sizes_of_adapter(registry, version) if version.kind == "adapter" else sizes_of(version))
    except ModelError as error:
        sizes = dict.fromkeys(("kind", "format", "num_parameters", "num_bytes", "context_length"))
        return row | sizes | {"problem": str(error)}


def sizes_of(version: "Version") -> dict[str, Any]:
    """Raises: ModelError."""
    from tuition.model.folder import open_model
    from tuition.spec.counts import num_parameters
    from tuition.tokenizer.folder import DEFAULT_TEMPLATE

    folder = open_model(version.path, verify=False)
    return {
        "kind": "chat" if DEFAULT_TEMPLATE in folder.chat_templates else "text",
        "format": folder.format,
        "num_parameters": num_parameters(folder.shape),
        "num_bytes": folder.num_bytes,
        "context_length": folder.shape.context_length,
        "problem": None,
    }


def sizes_of_adapter(registry: "Registry", version: "Version") -> dict[str, Any]:
    """Parameters and bytes are the adapter's own. Raises: ModelError, also where its base is gone."""
    from tuition.model.adapter_folder import read_adapter_folder
    from tuition.model.folder import open_model

    folder = read_adapter_folder(version.path, verify=False)
    base = registry.base_of(version)
    return {
        "kind": "adapter",
        "base": base.reference,
        "format": "safetensors " + "/".join(sorted({entry.dtype for entry in folder.file.entries.values()})),
        "num_parameters": folder.num_parameters,
        "num_bytes": folder.num_bytes,
        "context_length": open_model(base.path, verify=False).shape.context_length,
        "problem": None,
    }


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the list as text."""
    score = row["score"]
    scored = "-" if score is None else f"{score['value']:.3f} {score['unit']}"
    if row["problem"]:
        is_there = Path(row["path"]).exists()
        kind = "missing" if not is_there else "damaged" if row["base"] is None else "unusable"
        sizes = (kind, "-", "-", "-")
    else:
        number, size, context = row["num_parameters"], row["num_bytes"], row["context_length"]
        kind = row["kind"] if row["base"] is None else f"adapter of {row['base']}"
        sizes = (kind, format_count(number), format_bytes(size), f"{context:,}")
    return (f"{row['name']}@{row['version']}", *sizes, scored, row["created"])


def when(unix_ns: int) -> str:
    """Date and minute, UTC."""
    return datetime.fromtimestamp(unix_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%MZ")
