"""`tuition models add` and `remove`."""

import sys
from dataclasses import replace
from pathlib import Path

from tuition.books.books import open_books
from tuition.cli.models import AddModel, RemoveModel
from tuition.cli.terminal import open_progress
from tuition.core.errors import SettingsError
from tuition.core.workspace import open_workspace
from tuition.model.adapter_folder import (
    AdapterFolder,
    is_adapter,
    open_adapter,
    read_adapter_folder,
    require_base,
)
from tuition.model.check import check_model, check_unchanged
from tuition.model.folder import ModelFolder, open_model
from tuition.registry.hub import fetch
from tuition.registry.hub_files import HubReference, parse_hub
from tuition.registry.lineage import Lineage, read_lineage
from tuition.registry.names import check_name
from tuition.registry.registry import Registry, Version


def add(arguments: AddModel) -> int:
    """Register what is at a path; what cannot be used is refused now, not at its first use."""
    on_hub = parse_hub(str(arguments.path) if arguments.path is not None else arguments.name)
    if on_hub is not None:
        return add_from_hub(arguments, on_hub)
    check_name(arguments.name)
    if arguments.path is None:
        wanted = f"the folder or GGUF file to register as {arguments.name!r}, or hf:ORG/NAME"
        raise SettingsError("PATH", got=None, wanted=wanted)
    workspace = open_workspace(arguments.workspace).create()
    path = arguments.path.expanduser()
    with open_books(workspace) as books:
        registry = Registry(workspace, books)
        if is_adapter(path):
            digest, lineage = checked_adapter(registry, path, arguments.base)
        else:
            if arguments.base is not None:
                wanted = f"nothing: {path} holds a model, and only an adapter has a base"
                raise SettingsError("base", got=arguments.base, wanted=wanted)
            digest, lineage = check_model(path).digest, None
        version = registry.add(
            arguments.name,
            path,
            digest=digest,
            lineage=lineage,
            files="linked" if arguments.link else "copied",
        )
    of = f", an adapter of {version.lineage.parent}," if version.kind == "adapter" else ""
    print(f"{version.reference}{of} is registered: {version.path}")
    return 0


def add_from_hub(arguments: AddModel, reference: HubReference) -> int:
    """Download and register; without a name it is named after its repository."""
    for option in ("base", "link"):
        if getattr(arguments, option):
            raise SettingsError(option, got=getattr(arguments, option), wanted=f"nothing with {reference}")
    name = None if arguments.path is None else check_name(arguments.name)
    workspace = open_workspace(arguments.workspace).create()
    with open_books(workspace) as books:
        registry = Registry(workspace, books)
        version = fetch(registry, reference, open_progress(), name, lambda path: check_model(path).digest)
    print(f"{version.reference} is registered: {version.path}")
    return 0


def checked_adapter(registry: Registry, path: Path, named: str | None) -> tuple[str, Lineage]:
    """Digest and lineage of an adapter, after all of it was read together with its base."""
    folder = read_adapter_folder(path)
    base = base_for(registry, folder, named)
    opened = open_base(base)
    adapter = open_adapter(folder, opened)
    require_base(adapter, opened, base.digest)
    digest = adapter.digest()
    lineage = read_lineage(path, digest)
    return digest, replace(lineage, kind="adapter", parent=base.reference, parent_digest=base.digest)


def base_for(registry: Registry, folder: AdapterFolder, named: str | None) -> Version:
    """The registered base of an adapter: the one the user names, the one with the digest that the adapter
    gives, or the one of that name. Raises: NotFoundError, SettingsError."""
    if named is not None:
        version = registry.get(named)
        if version.kind == "adapter":
            raise SettingsError("base", got=named, wanted="a model; this is an adapter")
        return version
    models = [version for version in registry.list() if version.kind == "model"]
    if folder.base_digest is not None:
        for version in models:
            if version.digest == folder.base_digest:
                return version
    elif folder.base is not None:
        for version in models:
            source = (version.lineage.source or "").removeprefix("hf:").partition("@")[0]
            if folder.base in (version.reference, version.name, source):
                print(f"taken for its base by its name: {version.reference}", file=sys.stderr)
                return version
    told = "does not say what it was trained on" if folder.base is None else f"was trained on {folder.base!r}"
    weights = "" if folder.base_digest is None else f" with weights {folder.base_digest[:12]}..."
    wanted = f"--base MODEL, a registered model: the adapter {told}{weights}"
    if folder.base is not None:
        wanted += ", which is not registered"
    raise SettingsError("base", got=None, wanted=wanted)


def open_base(base: Version) -> ModelFolder:
    """Raises: ModelError, also where files that only are linked have changed."""
    folder = open_model(base.path)
    if not base.owned:
        check_unchanged(folder, base.digest)
    return folder


def remove(arguments: RemoveModel) -> int:
    workspace = open_workspace(arguments.workspace).create()
    with open_books(workspace) as books:
        registry = Registry(workspace, books)
        versions = registry.versions(arguments.model)
        adapters = registry.adapters_needing(versions)
        is_asked = "@" not in arguments.model or bool(adapters)
        if is_asked and not arguments.yes and not agreed(arguments.model, versions, adapters):
            print("Nothing was removed.")
            return 1
        gone = registry.remove(arguments.model, with_adapters=bool(adapters))
    for version in gone:
        kept = "" if version.owned else f" (its files stay: {version.path})"
        print(f"{version.reference} is removed{kept}; its bills stay readable")
    return 0


def agreed(name: str, versions: tuple[Version, ...], adapters: tuple[Version, ...]) -> bool:
    """Whether a person at a terminal agrees to remove what is named. Raises: SettingsError without one."""
    listed = names_of(versions)
    many = f"all {len(versions)} versions of" if len(versions) > 1 else "the only version of"
    what = listed if "@" in name else f"{many} {name} ({listed})"
    also = f", and the adapters that need it: {names_of(adapters)}" if adapters else ""
    if not sys.stdin.isatty():
        wanted = f"--yes, to remove {what}{also}"
        if len(versions) > 1:
            wanted += f", or one version as {versions[0].reference}"
        raise SettingsError("yes", got=None, wanted=wanted)
    print(f"This removes {what}{also}. Their bills stay. Continue? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def names_of(versions: tuple[Version, ...]) -> str:
    return ", ".join(version.reference for version in versions[:8]) + (", ..." if len(versions) > 8 else "")
