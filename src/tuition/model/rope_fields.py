"""Rotary settings in config.json, in both spellings: `rope_theta` with `rope_scaling`, and `rope_parameters`.

transformers 5 writes the second, everything older the first; we read either and write both, which all of
them open.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuition.core.errors import ModelError
from tuition.model.fields import Fields
from tuition.spec.shape import RopeKind, RopeShape

_KINDS: dict[str | None, RopeKind] = {
    None: "none", "default": "none", "linear": "linear", "llama3": "llama3", "yarn": "yarn",
    "longrope": "longrope", "su": "longrope",
}  # fmt: skip
_KNOWN_KEYS: dict[RopeKind, set[str]] = {
    "none": set(),
    "linear": {"factor"},
    "llama3": {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"},
    "yarn": {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
             "mscale", "mscale_all_dim", "truncate", "finetuned"},
    "longrope": {"factor", "original_max_position_embeddings", "attention_factor", "short_factor",
                 "long_factor"},
}  # fmt: skip
_COMMON_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_DEFAULT_THETA = 10_000.0
_FULL, _LOCAL = "full_attention", "sliding_attention"


def rope_from_config(
    config: Fields, context_length: int, head_dim: int, *,
    default_theta: float = _DEFAULT_THETA, may_be_partial: bool = False,
) -> RopeShape:  # fmt: skip
    """Rotary settings of a config; of its full layers, where it has others beside them.

    `may_be_partial`: whether the first dimensions of a head may turn alone. Raises:
    ModelError for kinds and parameters that would have to be ignored.
    """
    table = config.table.get("rope_scaling") or config.table.get("rope_parameters") or {}
    if isinstance(table, dict) and _FULL in table:
        table = table[_FULL] or {}
    if not isinstance(table, dict):
        raise config.fail("rope_parameters", "an object")
    theta = config.positive("rope_theta", default_theta)
    sizes = (context_length, head_dim, head_dim if may_be_partial else None)
    return _rope(config, table, theta, sizes)


def local_rope(config: Fields, context_length: int, head_dim: int) -> RopeShape:
    """Rotary settings of the layers with windows. Raises: as `rope_from_config`."""
    table = config.table.get("rope_parameters") or {}
    table = table.get(_LOCAL) or {} if isinstance(table, dict) else table
    if not isinstance(table, dict):
        raise config.fail("rope_parameters", f"an object with {_FULL} and {_LOCAL}")
    theta = config.positive("rope_local_base_freq", _DEFAULT_THETA)
    return _rope(config, table, theta, (context_length, head_dim, None))


def _rope(
    config: Fields, table: dict[str, Any], theta: float, sizes: tuple[int, int, int | None]
) -> RopeShape:
    """`sizes`: context length, head_dim, and head_dim again where a part of it may turn alone."""
    context_length, whole_head, head_dim = sizes
    rope = Fields(config.path, table)
    kind = rope.table.get("rope_type", rope.table.get("type"))
    if not isinstance(kind, (str, type(None))) or kind not in _KINDS:
        supported = ", ".join(name for name in _KINDS if name)
        raise _refusal(config.path, f"rotary positions of kind {str(kind)[:40]!r}", f"supported: {supported}")
    name = _KINDS[kind]
    unknown = sorted(set(table) - _COMMON_KEYS - _KNOWN_KEYS[name])
    # A stretched context that is merely described beside plain rotary positions changes nothing.
    if unknown and not (name == "none" and unknown == ["original_max_position_embeddings"]):
        raise _refusal(
            config.path, f"the rotary parameter {str(unknown[0])[:60]!r} of kind {name}", "unknown to us"
        )
    shape = RopeShape(
        theta=rope.positive("rope_theta", theta), kind=name, rotary_dim=_turning(rope, config, head_dim)
    )
    if name == "none":
        return shape
    original = config.optional_count("original_max_position_embeddings")
    original = original or rope.count("original_max_position_embeddings", context_length)
    if name == "linear":
        return replace(shape, factor=rope.positive("factor"))
    if name == "llama3":
        low, high = rope.positive("low_freq_factor"), rope.positive("high_freq_factor")
        if high <= low:
            raise rope.fail("high_freq_factor", f"a number above low_freq_factor ({low})")
        return replace(shape, factor=rope.positive("factor"), original_context=original,
                       low_freq_factor=low, high_freq_factor=high)  # fmt: skip
    if name == "longrope":
        pairs = (shape.rotary_dim or whole_head) // 2
        return replace(shape, factor=rope.positive("factor", context_length / original),
                       original_context=original, full_context=context_length,
                       attention_factor=rope.optional_positive("attention_factor"),
                       short_factors=_factors(rope, "short_factor", pairs),
                       long_factors=_factors(rope, "long_factor", pairs))  # fmt: skip
    if shape.theta == 1.0:
        raise config.fail("rope_theta", "a number other than 1 for yarn")
    return replace(
        shape,
        factor=rope.positive("factor", context_length / original),
        original_context=original,
        beta_fast=rope.positive("beta_fast", 32.0),
        beta_slow=rope.positive("beta_slow", 1.0),
        attention_factor=rope.optional_positive("attention_factor"),
        mscale=rope.optional_positive("mscale"),
        mscale_all_dim=rope.optional_positive("mscale_all_dim"),
        truncate=rope.flag("truncate", True),
    )


def _factors(rope: Fields, key: str, count: int) -> tuple[float, ...]:
    """One number above 0 for each pair of dimensions that turns."""
    found = rope.table.get(key)
    if not isinstance(found, list) or len(found) != count:
        raise rope.fail(key, f"a list of {count} numbers")
    return tuple(Fields(rope.path, {key: one}).positive(key) for one in found)


def _turning(rope: Fields, config: Fields, head_dim: int | None) -> int | None:
    """How many dimensions of a head turn; None: all of them."""
    share = rope.positive("partial_rotary_factor", config.positive("partial_rotary_factor", 1.0))
    if share == 1.0:
        return None
    if head_dim is None:
        raise _refusal(config.path, "partial rotary positions", "every dimension of a head must turn")
    if share > 1.0 or (dim := int(head_dim * share)) < 2:
        raise rope.fail("partial_rotary_factor", "a share of a head, at least of two dimensions")
    return dim


def rope_to_config(rope: RopeShape, head_dim: int) -> dict[str, Any]:
    """Both spellings, to be merged into config.json."""
    config = _both_spellings(rope)
    if rope.rotary_dim is not None:
        share = rope.rotary_dim / head_dim
        if int(head_dim * share) < rope.rotary_dim:  # the product rounds down
            share = math.nextafter(share, 1.0)
        config["partial_rotary_factor"] = config["rope_parameters"]["partial_rotary_factor"] = share
    return config


def two_ropes_to_config(rope: RopeShape, local: RopeShape, head_dim: int) -> dict[str, Any]:
    """Both spellings of the positions of full layers and of those with windows."""
    config = rope_to_config(rope, head_dim)
    local_parameters = rope_to_config(local, head_dim)["rope_parameters"]
    config["rope_parameters"] = {_FULL: config["rope_parameters"], _LOCAL: local_parameters}
    return config | {"rope_local_base_freq": local.theta}


def _both_spellings(rope: RopeShape) -> dict[str, Any]:
    if rope.kind == "none":
        plain = {"rope_type": "default", "rope_theta": rope.theta}
        return {"rope_theta": rope.theta, "rope_scaling": None, "rope_parameters": plain}
    if rope.kind == "longrope":
        return _longrope_to_config(rope)
    scaling: dict[str, Any] = {"rope_type": rope.kind, "factor": rope.factor}
    if rope.kind in ("llama3", "yarn"):
        scaling["original_max_position_embeddings"] = rope.original_context
    if rope.kind == "llama3":
        scaling |= {"low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor}
    if rope.kind == "yarn":
        scaling |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
        for key in ("attention_factor", "mscale", "mscale_all_dim"):
            if getattr(rope, key) is not None:
                scaling[key] = getattr(rope, key)
        if not rope.truncate:
            scaling["truncate"] = False
    together = {**scaling, "rope_theta": rope.theta}
    return {"rope_theta": rope.theta, "rope_scaling": scaling, "rope_parameters": together}


def _longrope_to_config(rope: RopeShape) -> dict[str, Any]:
    """Old readers of Phi-3 take no other key beside the kind and the two lists."""
    scaling: dict[str, Any] = {
        "type": "longrope",
        "short_factor": list(rope.short_factors),
        "long_factor": list(rope.long_factors),
    }
    if rope.factor != rope.full_context / rope.original_context:
        scaling["factor"] = rope.factor
    if rope.attention_factor is not None:
        scaling["attention_factor"] = rope.attention_factor
    original = {"original_max_position_embeddings": rope.original_context}
    together = {**scaling, **original, "rope_type": "longrope", "rope_theta": rope.theta}
    return {"rope_theta": rope.theta, "rope_scaling": scaling, "rope_parameters": together, **original}


def _refusal(path: Path, what: str, why: str) -> ModelError:
    return ModelError(path, f"{what} cannot be computed here ({why})", way_out="use another model")
