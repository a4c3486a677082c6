"""`tuition models show`: one model or adapter, where it came from, what it scored."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuition.books.books import open_books
from tuition.cli.models import ShowModel, when
from tuition.core.amount import Amount
from tuition.core.errors import ModelError
from tuition.core.records import Score
from tuition.core.units import format_bytes, format_count
from tuition.core.workspace import open_workspace
from tuition.engine.runner_choice import choose_runner
from tuition.engine.settings import EngineSettings
from tuition.ledger.render import totals_line
from tuition.model.adapter_folder import AdapterFolder, is_adapter, open_adapter, read_adapter_folder
from tuition.model.folder import ModelFolder, open_model
from tuition.registry.registry import Registry, Version
from tuition.spec.counts import kv_bytes_per_token, num_parameters
from tuition.tokenizer.folder import TOOL_TEMPLATE


def show(arguments: ShowModel) -> int:
    workspace = open_workspace(arguments.workspace).create()
    base: Version | ModelError | None = None
    with open_books(workspace) as books:
        registry = Registry(workspace, books)
        found = registry.find(arguments.model)
        version, path = (found, found.path) if isinstance(found, Version) else (None, found)
        scores = registry.scores(version) if version else ()
        if version is not None and version.kind == "adapter":
            try:
                base = registry.base_of(version)
            except ModelError as error:
                base = error
    opened = (read_adapter_folder if is_adapter(path) else open_model)(path, verify=arguments.check)
    is_model = isinstance(opened, ModelFolder)
    lines = lines_of_model(opened) if is_model else lines_of_adapter(opened, base)
    print(f"{version.reference if version else path}")
    print(f"  files             {path}  ({format_bytes(size_of(path))})")
    sys.stdout.writelines(f"  {name:<18}{text}\n" for name, text in lines)
    if version is not None:
        print(f"  digest            {version.digest}")
        print(f"  made              {when(version.created_unix_ns)}")
        for name, value in vars(version.lineage).items():
            if value is not None and name != "settings" and not (name == "evaluation" and scores):
                print(f"  {name.replace('_', ' '):<18}{told(name, value)}")
    sys.stdout.writelines(lines_of_scores(scores))
    if arguments.check:
        digest = checked(opened, version, base)
        print(f"  checked           every file reads, digest {digest[:12]}")
    if version is not None and version.lineage.settings:
        print("  settings of its run, as they were given:")
        sys.stdout.writelines(f"    {line}\n" for line in version.lineage.settings.strip().splitlines())
    return 0


def lines_of_model(folder: ModelFolder) -> list[tuple[str, str]]:
    shape = folder.shape
    runner = choose_runner(shape, EngineSettings())
    return [
        ("parameters", f"{num_parameters(shape):,} ({format_count(num_parameters(shape))})"),
        (
            "shape",
            f"{shape.num_layers} layers, width {shape.hidden_size}, {shape.num_heads} query "
            f"and {shape.num_kv_heads} key/value heads of {shape.head_dim}, feed-forward {shape.mlp_size}",
        ),
        ("vocabulary", f"{shape.vocab_size:,} tokens; context {shape.context_length:,} tokens"),
        ("cache", f"{format_bytes(kv_bytes_per_token(shape))} per token in bf16"),
        *([("chat templates", templates_of(folder))] if len(folder.chat_templates) > 1 else []),
        ("sampling", folder.generation.describe()),
        ("runner", f"{runner.kind}: {runner.reason}"),
    ]


def templates_of(folder: ModelFolder) -> str:
    """Names of several, and the use of the second."""
    use = (
        f"; {TOOL_TEMPLATE} shows conversations with tools" if TOOL_TEMPLATE in folder.chat_templates else ""
    )
    return f"{', '.join(map(repr, folder.chat_templates))}{use}"


def lines_of_adapter(folder: AdapterFolder, base: Version | ModelError | None) -> list[tuple[str, str]]:
    settings = folder.settings
    scale = f"{settings.scale} scale {settings.scale_for(settings.rank):g}"
    if isinstance(base, Version):
        of = f"{base.reference}, {base.path}"
    else:
        of = str(base or folder.base or "not named")
    return [
        ("adapter of", of),
        ("parameters", f"{folder.num_parameters:,} ({format_count(folder.num_parameters)})"),
        ("LoRA", f"rank {settings.rank}, alpha {settings.alpha:g}, {scale}, dropout {settings.dropout:g}"),
    ]


def lines_of_scores(scores: tuple[Score, ...]) -> list[str]:
    lines = []
    for score in scores:
        error = "" if score.stderr is None else f" ± {score.stderr:.4f}"
        amount = "" if score.num_bytes is None else f" over {score.num_bytes:,} bytes"
        made = "" if score.created_unix_ns is None else f", {when(score.created_unix_ns)}"
        lines.append(f"  score             {score.value:.4f}{error} {score.task}{amount}{made}\n")
        if score.method:
            lines.append(f"                    {score.method}\n")
    return lines


def checked(
    opened: AdapterFolder | ModelFolder, version: Version | None, base: Version | ModelError | None
) -> str:
    """The digest of the weights, all of them read; of an adapter, those of its base are read too.
    Raises: ModelError where one is not the digest that was registered."""
    if isinstance(opened, ModelFolder):
        digest = opened.digest()
    elif isinstance(base, Version):
        folder = open_model(base.path)
        require_digest(folder.path, folder.digest(), base)
        digest = open_adapter(opened, folder).digest()
    elif base is None:
        raise ModelError(opened.path, "can be checked only together with its base", way_out="register it")
    else:
        raise base
    if version is not None:
        require_digest(opened.path, digest, version)
    return digest


def require_digest(path: Path, digest: str, version: Version) -> None:
    if digest != version.digest:
        problem = f"has the digest {digest[:12]}..., {version.reference} was registered with "
        problem += f"{version.digest[:12]}..."
        raise ModelError(path, problem, way_out="restore the files, or add them again")


def told(name: str, value: str | Mapping[str, Any]) -> str:
    """A value of a lineage as text; values from a file are quoted, so that they cannot control a terminal."""
    if isinstance(value, str):
        return value
    if name == "bill":
        return totals_line(Amount(value["wall_ns"], value["energy_uj"], value["cost_nusd"]))
    return ", ".join(f"{json.dumps(key)[1:-1]} {json.dumps(figure)}" for key, figure in value.items())


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [part for part in path.rglob("*") if part.is_file()]
    return sum(part.stat().st_size for part in files)
