"""A model that was named by its path becomes a version of the registry; its files stay where they are.

In: a folder or a GGUF file, and the digest of its weights.  Out: a `Version`.
"""

from pathlib import Path

from tuition.registry.names import as_name
from tuition.registry.registry import Registry, Version

_DIGITS = 8
"""Of the digest, in a name whose plain form stands for another model."""


def register_linked(registry: Registry, path: Path, digest: str) -> Version:
    """A new version under a name made from the path. Raises: ModelError."""
    plain = as_name(path.name.removesuffix(".gguf"))
    is_taken = any(version.name == plain for version in registry.list())
    name = f"{plain[: 64 - _DIGITS - 1]}-{digest[:_DIGITS]}" if is_taken else plain
    return registry.add(name, path, digest=digest, files="linked")
