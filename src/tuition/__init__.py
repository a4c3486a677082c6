"""Teach a model, use it, and know what every run, request and token cost.

`from tuition import Engine` is the short way to use a model from a program; its requests are billed.
Everything else is in the packages, see ARCHITECTURE.md. The public names below are loaded when they are first
used, so importing `tuition` is quick.
"""

import importlib
from typing import Any

_PLACES = {
    "Engine": "tuition.desk.engine",
    "EngineSettings": "tuition.engine.settings",
    "Request": "tuition.engine.request",
    "Sampling": "tuition.engine.request",
    "Completion": "tuition.engine.request",
}

__all__ = ["Completion", "Engine", "EngineSettings", "Request", "Sampling", "__version__"]


def __getattr__(name: str) -> Any:
    """Public names, loaded when first asked for (PEP 562)."""
    if name == "__version__":
        metadata = importlib.import_module("importlib.metadata")
        try:
            value = metadata.version("tuition")
        except metadata.PackageNotFoundError:  # run from the source tree
            value = "0+source"
    elif name in _PLACES:
        value = getattr(importlib.import_module(_PLACES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
