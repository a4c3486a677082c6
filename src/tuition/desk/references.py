"""What a reference names: a model with the identity that its bills carry, or an adapter and its base.

In: a registered name, a folder, a GGUF file.  Out: `Reference`, and for an adapter `LoadedAdapter`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tuition.core.errors import ModelError, SettingsError
from tuition.desk.desk import ModelIdentity
from tuition.engine.variants import Variant
from tuition.model.adapter_folder import is_adapter, open_adapter
from tuition.model.folder import ModelFolder, open_model
from tuition.registry.registry import Registry, Version


@dataclass(frozen=True)
class Reference:
    """A model that is opened; an adapter is opened on it where that was named."""

    base: ModelIdentity
    folder: ModelFolder
    adapter: Version | None = None


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter that fits a base, as its engine takes it."""

    identity: ModelIdentity
    digest: str
    """Of the adapter alone."""
    variant: Variant
    parent: str
    """The base, as an error names it."""

    def require_base(self, folder: ModelFolder, has_digest: Callable[[str], bool]) -> None:
        """`has_digest`: whether the weights in use, loaded from `folder`, have this digest.

        Raises: ModelError where the adapter was made for others.
        """
        digest = self.variant.base_digest
        if digest is None or has_digest(digest):
            return
        name = f"{self.identity.name}@{self.identity.version}"
        problem = f"is an adapter of {self.parent} (weights {digest[:12]}...), not of {folder.path}"
        raise ModelError(name, problem, way_out=f"use it with its base, {self.parent}")


def find_reference(model: str | Path | ModelFolder, registry: Registry) -> Reference:
    """Raises: NotFoundError; ModelError, also for an adapter whose base is not registered."""
    if isinstance(model, ModelFolder):
        return Reference(ModelIdentity(_name_of(model.path), None), model)
    path = Path(model).expanduser()
    if not isinstance(model, Path) and not (path.exists() and len(path.parts) > 1):
        found = registry.find(model)
        if isinstance(found, Version):
            base = found if found.kind == "model" else registry.base_of(found)
            identity = ModelIdentity(base.name, base.version)
            return Reference(identity, open_model(base.path), None if found is base else found)
        path = found
    if is_adapter(path):
        way_out = "register it, then name it: tuition models add NAME PATH"
        raise ModelError(path, "is an adapter, which is used by its registered name", way_out=way_out)
    return Reference(ModelIdentity(_name_of(path), None), open_model(path))


def load_adapter(version: Version, base: ModelFolder) -> LoadedAdapter:
    """A registered adapter, for a model of the shape of `base`.

    Raises: SettingsError for a model; ModelError where its matrices are none of the base's.
    """
    if version.kind != "adapter":
        raise SettingsError("adapters", got=version.reference, wanted="an adapter; this is a whole model")
    adapter = open_adapter(version.path, base)
    digest = adapter.base_digest or version.lineage.parent_digest
    variant = Variant.of(replace(adapter, base_digest=digest))
    parent = version.lineage.parent or adapter.base or "another model"
    return LoadedAdapter(ModelIdentity(version.name, version.version), adapter.digest(), variant, parent)


def _name_of(path: Path) -> str:
    stem = path.stem if path.is_file() else path.resolve().name
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._") or "model"
