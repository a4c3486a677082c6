"""The model that training begins from: found by name and opened.

In: a registered name, `name@version`, a folder or a GGUF file.  Out: a `Base`.
"""

from dataclasses import dataclass

from tuition.core.errors import NotFoundError, SettingsError
from tuition.core.units import format_bytes
from tuition.model.folder import ModelFolder, open_model
from tuition.registry.names import parse_reference
from tuition.registry.registry import Registry
from tuition.spec.counts import num_parameters


@dataclass(frozen=True)
class Base:
    """An opened base model."""

    name: str
    """`name@version`, or the path of one that is not registered."""
    folder: ModelFolder
    digest: str
    """SHA-256 of its weights."""

    @property
    def is_quantised(self) -> bool:
        """Whether its weights were rounded to few bits."""
        return any(part.startswith("Q") for part in self.folder.format.replace("/", " ").split())

    def describe(self) -> str:
        """What is loaded, and for a quantised file what expanding its weights means."""
        text = f"begins from {self.name} ({self.folder.format})"
        if not self.is_quantised:
            return text
        size = format_bytes(4 * num_parameters(self.folder.shape))
        return (
            f"{text}: its quantised weights are expanded ({size} in float32) and taught from the rounded "
            "values; the result is not quantised (serve it with --precision int8 or int4)"
        )


def open_base(name: str | None, registry: Registry) -> Base:
    """Find and open a base. Raises: SettingsError where none is named, NotFoundError, ModelError."""
    if not name:
        raise SettingsError("from", got=name, wanted="the model to begin from: a registered name or a path")
    if parse_reference(name) is not None:
        try:
            version = registry.get(name)
        except NotFoundError:
            pass  # it may be a path
        else:
            return Base(version.reference, open_model(version.path), version.digest)
    path = registry.resolve(name)
    folder = open_model(path)
    return Base(str(path.absolute()), folder, folder.digest())
