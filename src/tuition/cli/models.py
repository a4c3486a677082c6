"""`tuition models`: what is registered, where it came from, what it scored; add one, remove one."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from tuition.cli.arguments import Common, choose, parse
from tuition.core.errors import ModelError, SettingsError
from tuition.core.units import format_bytes, format_count
from tuition.core.workspace import open_workspace

if TYPE_CHECKING:
    from tuition.core.records import Score
    from tuition.registry.registry import Version

ACTIONS = {
    "list": "every model of the workspace: kind, size, context, score",
    "show": "one model: shape, lineage, scores",
    "add": "register a Hugging Face folder or a GGUF file under a name",
    "remove": "remove one version (name@version) or, with --yes, all of a name; bills stay",
}

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]


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
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """What to call it: letters a-z, digits, dot, dash, underscore."""
    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """A Hugging Face folder (config.json, *.safetensors, tokenizer.json) or a GGUF file."""
    link: tyro.conf.FlagCreatePairsOff[bool] = False
    """Leave the files where they are instead of copying them into the workspace."""


@dataclass(frozen=True, kw_only=True)
class RemoveModel(Common):
    model: Model
    """name@version, or a name for all its versions."""
    yes: tyro.conf.FlagCreatePairsOff[bool] = False
    """Remove all versions of a name without asking."""


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
        registry = Registry(workspace, books)
        rows = [row_of(version, next(iter(registry.scores(version)), None)) for version in registry.list()]
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


def row_of(version: "Version", score: "Score | None") -> dict[str, Any]:
    """What the list says of a version. If it cannot be opened its sizes are None and `problem` says why."""
    from tuition.model.folder import open_model
    from tuition.spec.counts import num_parameters

    row: dict[str, Any] = {
        "name": version.name,
        "version": version.version,
        "path": str(version.path),
        "digest": version.digest,
        "created": when(version.created_unix_ns),
        "run": version.lineage.run_id,
        "source": version.lineage.source,
        "score": None
        if score is None
        else {"task": score.task, "value": score.value, "stderr": score.stderr, "unit": score.unit},
    }
    try:
        folder = open_model(version.path, verify=False)
    except ModelError as error:
        sizes = dict.fromkeys(("kind", "format", "num_parameters", "num_bytes", "context_length"))
        return row | sizes | {"problem": str(error)}
    return row | {
        "kind": "chat" if folder.has_chat_template else "text",
        "format": folder.format,
        "num_parameters": num_parameters(folder.shape),
        "num_bytes": folder.num_bytes,
        "context_length": folder.shape.context_length,
        "problem": None,
    }


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the list as text."""
    score = row["score"]
    scored = "-" if score is None else f"{score['value']:.3f} {score['unit']}"
    if row["problem"]:
        sizes = ("missing" if not Path(row["path"]).exists() else "damaged", "-", "-", "-")
    else:
        number, size, context = row["num_parameters"], row["num_bytes"], row["context_length"]
        sizes = (row["kind"], format_count(number), format_bytes(size), f"{context:,}")
    return (f"{row['name']}@{row['version']}", *sizes, scored, row["created"])


def show_model(arguments: ShowModel) -> int:
    from tuition.books.books import open_books
    from tuition.core.errors import NotFoundError
    from tuition.engine.runner_choice import choose_runner
    from tuition.engine.settings import EngineSettings
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
    print(f"  sampling          {folder.generation.describe()}")
    runner = choose_runner(shape, EngineSettings())
    print(f"  runner            {runner.kind}: {runner.reason}")
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
        if score.method:
            print(f"                    {score.method}")
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
    from tuition.model.check import check_model
    from tuition.registry.names import check_name
    from tuition.registry.registry import Registry

    check_name(arguments.name)
    workspace = open_workspace(arguments.workspace).create()
    digest = check_model(arguments.path.expanduser()).digest  # refused now, not at its first use
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
        registry = Registry(workspace, books)
        if "@" not in arguments.model and not (
            arguments.yes or agreed(arguments.model, registry.versions(arguments.model))
        ):
            print("Nothing was removed.")
            return 1
        gone = registry.remove(arguments.model)
    for version in gone:
        kept = "" if version.owned else f" (its files stay: {version.path})"
        print(f"{version.reference} is removed{kept}; its bills stay readable")
    return 0


def agreed(name: str, versions: "tuple[Version, ...]") -> bool:
    """Whether a person at a terminal agrees to remove all versions. Raises: SettingsError without one."""
    listed = ", ".join(version.reference for version in versions[:8]) + (", ..." if len(versions) > 8 else "")
    many = f"all {len(versions)} versions" if len(versions) > 1 else "the only version"
    if not sys.stdin.isatty():
        wanted = f"--yes, to remove {many} of {name} ({listed}), or one version as {versions[0].reference}"
        raise SettingsError("yes", got=None, wanted=wanted)
    print(f"This removes {many} of {name}: {listed}. Their bills stay. Continue? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def told(name: str, value: str | Mapping[str, Any]) -> str:
    """A value of a lineage as text; values from a file are quoted, so that they cannot control a terminal."""
    from tuition.core.amount import Amount
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
