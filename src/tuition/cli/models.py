"""`tuition models`: what is registered, where it came from, what it scored; add one, remove one."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tyro

from tuition.cli.arguments import Common, choose, parse
from tuition.core.units import format_bytes, format_count
from tuition.core.workspace import open_workspace

ACTIONS = {
    "list": "every model of the workspace",
    "show": "one model: shape, lineage, scores",
    "add": "register a Hugging Face folder or a GGUF file under a name",
    "remove": "remove one version (name@version) or all of a name; bills stay",
}


@dataclass(frozen=True, kw_only=True)
class ListModels(Common):
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """One JSON object per line instead of a table."""


@dataclass(frozen=True, kw_only=True)
class ShowModel(Common):
    model: tyro.conf.Positional[str]
    """Name, name@version, or the path of a folder or GGUF file."""
    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Read every file and compare its digest with the one that was registered."""


@dataclass(frozen=True, kw_only=True)
class AddModel(Common):
    name: tyro.conf.Positional[str]
    """What to call it: letters a-z, digits, dot, dash, underscore."""
    path: tyro.conf.Positional[Path]
    """A Hugging Face folder (config.json, *.safetensors, tokenizer.json) or a GGUF file."""
    link: tyro.conf.FlagCreatePairsOff[bool] = False
    """Leave the files where they are instead of copying them into the workspace."""


@dataclass(frozen=True, kw_only=True)
class RemoveModel(Common):
    model: tyro.conf.Positional[str]
    """name@version, or a name for all its versions."""


def run(argv: list[str]) -> int:
    """List, show, add or remove."""
    action, rest = choose(ACTIONS, argv, verb="models", default="list")
    verb = f"models {action}"
    if action == "list":
        return list_models(parse(ListModels, rest, verb=verb, description=ACTIONS[action]))
    if action == "show":
        return show_model(parse(ShowModel, rest, verb=verb, description=ACTIONS[action]))
    if action == "add":
        return add_model(parse(AddModel, rest, verb=verb, description=ACTIONS[action]))
    return remove_model(parse(RemoveModel, rest, verb=verb, description=ACTIONS[action]))


def list_models(arguments: ListModels) -> int:
    from tuition.books.books import open_books
    from tuition.registry.registry import Registry

    workspace = open_workspace(arguments.workspace).create()
    with open_books(workspace) as books:
        versions = Registry(workspace, books).list()
    if not versions and not arguments.json:
        print(
            f"No models in {workspace.root} yet: `tuition train` makes one, `tuition models add` takes one."
        )
        return 0
    if not arguments.json:
        print(f"{'model':<28} {'made':<17} {'from':<34} digest")
    for version in versions:
        made = when(version.created_unix_ns)
        lineage = version.lineage
        origin = f"run {lineage.run_id}" if lineage.run_id else (lineage.source or "unknown")
        if arguments.json:
            row = {"name": version.name, "version": version.version, "path": str(version.path)}
            row |= {
                "digest": version.digest,
                "created": made,
                "run": lineage.run_id,
                "source": lineage.source,
            }
            print(json.dumps(row))
        else:
            print(f"{version.reference:<28} {made:<17} {shortened(origin, 34):<34} {version.digest[:12]}")
    return 0


def show_model(arguments: ShowModel) -> int:
    from tuition.books.books import open_books
    from tuition.core.errors import ModelError, NotFoundError
    from tuition.model.folder import open_model
    from tuition.registry.registry import Registry
    from tuition.spec.counts import kv_bytes_per_token, num_parameters

    workspace = open_workspace(arguments.workspace).create()
    with open_books(workspace) as books:
        registry = Registry(workspace, books)
        try:
            version = registry.get(arguments.model)
        except NotFoundError:
            version = None
        path = registry.resolve(arguments.model)
        scores = registry.scores(version) if version else ()
    folder = open_model(path, verify=arguments.check)
    shape = folder.shape
    print(f"{version.reference if version else path}")
    print(f"  files             {path}  ({format_bytes(size_of(path))})")
    print(f"  parameters        {num_parameters(shape):,} ({format_count(num_parameters(shape))})")
    print(
        f"  shape             {shape.num_layers} layers, width {shape.hidden_size}, {shape.num_heads} query "
        f"and {shape.num_kv_heads} key/value heads of {shape.head_dim}, feed-forward {shape.mlp_size}"
    )
    print(f"  vocabulary        {shape.vocab_size:,} tokens; context {shape.context_length:,} tokens")
    print(f"  cache             {format_bytes(kv_bytes_per_token(shape))} per token in bf16")
    if version is not None:
        print(f"  digest            {version.digest}")
        print(f"  made              {when(version.created_unix_ns)}")
        for name, value in vars(version.lineage).items():
            if value is not None and name != "settings" and not (name == "evaluation" and scores):
                print(f"  {name.replace('_', ' '):<18}{told(name, value)}")
    for score in scores:
        error = "" if score.stderr is None else f" ± {score.stderr:.4f}"
        amount = "" if score.num_bytes is None else f" over {score.num_bytes:,} bytes"
        made = "" if score.created_unix_ns is None else f", {when(score.created_unix_ns)}"
        print(f"  score             {score.value:.4f}{error} {score.task}{amount}{made}")
    if arguments.check:
        digest = folder.digest()
        if version is not None and digest != version.digest:
            raise ModelError(
                path, f"digest {digest} is not the registered one", way_out="add it again, or restore it"
            )
        print(f"  checked           every file reads, digest {digest[:12]}")
    if version is not None and version.lineage.settings:
        print("  settings of its run, as they were given:")
        sys.stdout.writelines(f"    {line}\n" for line in version.lineage.settings.strip().splitlines())
    return 0


def add_model(arguments: AddModel) -> int:
    from tuition.books.books import open_books
    from tuition.model.folder import open_model
    from tuition.registry.names import check_name
    from tuition.registry.registry import Registry

    check_name(arguments.name)
    workspace = open_workspace(arguments.workspace).create()
    digest = open_model(arguments.path.expanduser()).digest()
    with open_books(workspace) as books:
        registry = Registry(workspace, books)
        version = registry.add(arguments.name, arguments.path, digest=digest, link=arguments.link)
    print(f"{version.reference} is registered: {version.path}")
    return 0


def remove_model(arguments: RemoveModel) -> int:
    from tuition.books.books import open_books
    from tuition.registry.registry import Registry

    workspace = open_workspace(arguments.workspace).create()
    with open_books(workspace) as books:
        gone = Registry(workspace, books).remove(arguments.model)
    for version in gone:
        kept = "" if version.owned else f" (its files stay: {version.path})"
        print(f"{version.reference} is removed{kept}; its bills stay readable")
    return 0


def told(name: str, value: str | Mapping[str, Any]) -> str:
    """What a lineage says; of a score in a model's own file only what gives no orders to a terminal."""
    from tuition.ledger.amount import Amount
    from tuition.ledger.render import totals_line

    if isinstance(value, str):
        return value
    if name == "bill":
        return totals_line(Amount(value["wall_ns"], value["energy_uj"], value["cost_nusd"]))
    return ", ".join(f"{json.dumps(key)[1:-1]} {json.dumps(figure)}" for key, figure in value.items())


def when(unix_ns: int) -> str:
    """Date and minute, UTC."""
    return datetime.fromtimestamp(unix_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%MZ")


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [part for part in path.rglob("*") if part.is_file()]
    return sum(part.stat().st_size for part in files)


def shortened(text: str, width: int) -> str:
    """The end of a text that is too wide, since paths differ at their end."""
    return text if len(text) <= width else "…" + text[1 - width :]
