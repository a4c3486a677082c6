"""Sliding windows in config.json: which layers see only the last keys, and how many.

In: the fields of a config and its family.  Out: the window and its layers; and back.
"""

from typing import Any

from tuition.model.families import Family
from tuition.model.fields import Fields
from tuition.spec.shape import ModelShape

_FULL, _SLIDING = "full_attention", "sliding_attention"
PATTERN = 6
"""Of families with a pattern, every such layer sees everything, unless the config says otherwise."""


def read_windows(config: Fields, family: Family, num_layers: int) -> tuple[int | None, tuple[int, ...]]:
    """The window and the layers that use it. Raises: ModelError where keys contradict each other."""
    every = tuple(range(num_layers))
    listed = config.table.get("layer_types")
    if listed is not None and (
        not isinstance(listed, list)
        or len(listed) != num_layers
        or any(kind not in (_FULL, _SLIDING) for kind in listed)
    ):
        raise config.fail("layer_types", f"{num_layers} entries of {_FULL!r} or {_SLIDING!r}")
    says = tuple(layer for layer in every if listed is not None and listed[layer] == _SLIDING)
    if family.windows == "every layer":
        has_key = "sliding_window" in config.table
        window = config.optional_count("sliding_window") if has_key else family.defaults["sliding_window"]
        layers = every if window is not None else ()
    elif family.windows == "listed layers" and config.flag("use_sliding_window", False):
        window = config.optional_count("sliding_window") if "sliding_window" in config.table else 4_096
        first = config.table.get("max_window_layers", 28)
        if type(first) is not int or first < 0:
            raise config.fail("max_window_layers", "a whole number, 0 or more")
        layers = says if listed is not None else every[first:] if window is not None else ()
    elif family.windows == "pattern":
        window = config.count("sliding_window", family.defaults["sliding_window"])
        pattern = config.count("sliding_window_pattern", config.count("_sliding_window_pattern", PATTERN))
        layers = says if listed is not None else tuple(i for i in every if (i + 1) % pattern)
    else:
        window, layers = None, ()
    if listed is not None and says != layers:
        raise config.fail(
            "layer_types", f"what the other window settings say: windows in layers {list(layers)}"
        )
    return (window, layers) if layers else (None, ())


def windows_to_config(shape: ModelShape, family: Family) -> dict[str, Any]:
    """The keys of a family's windows."""
    if family.windows == "none":
        return {}
    window = shape.sliding_window if shape.window_layers else None
    if family.windows == "every layer":
        return {"sliding_window": window}
    types = [_FULL if shape.window(layer) is None else _SLIDING for layer in range(shape.num_layers)]
    if family.windows == "pattern":
        return {"sliding_window": window or family.defaults["sliding_window"], "layer_types": types}
    return {
        "use_sliding_window": bool(shape.window_layers),
        "sliding_window": window,
        "max_window_layers": min(shape.window_layers, default=shape.num_layers),
        "layer_types": types,
    }
