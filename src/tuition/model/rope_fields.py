"""Rotary settings in config.json, in both spellings: `rope_theta` with `rope_scaling`, and `rope_parameters`.

transformers 5 writes the second, everything older the first; we read either and write both, which all of
them open.
"""

from pathlib import Path
from typing import Any

from tuition.core.errors import ModelError
from tuition.model.fields import Fields
from tuition.spec.shape import RopeShape

_KINDS = {None: "none", "default": "none", "linear": "linear", "llama3": "llama3", "yarn": "yarn"}
_KNOWN_KEYS = {
    "none": set(),
    "linear": {"factor"},
    "llama3": {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"},
    "yarn": {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
             "mscale", "mscale_all_dim", "truncate", "finetuned"},
}  # fmt: skip
_COMMON_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_DEFAULT_THETA = 10_000.0


def rope_from_config(config: Fields, context_length: int) -> RopeShape:
    """Rotary settings of a config. Raises:
    ModelError for kinds and parameters that would have to be ignored.
    """
    table = config.table.get("rope_scaling") or config.table.get("rope_parameters") or {}
    if not isinstance(table, dict):
        raise config.fail("rope_parameters", "an object")
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
    for holder in (rope, config):
        if holder.positive("partial_rotary_factor", 1.0) != 1.0:
            raise _refusal(config.path, "partial rotary positions", "every dimension of a head must turn")
    theta = rope.positive("rope_theta", config.positive("rope_theta", _DEFAULT_THETA))
    if name == "none":
        return RopeShape(theta=theta)
    original = config.optional_count("original_max_position_embeddings")
    original = original or rope.count("original_max_position_embeddings", context_length)
    if name == "linear":
        return RopeShape(theta=theta, kind="linear", factor=rope.positive("factor"))
    if name == "llama3":
        low, high = rope.positive("low_freq_factor"), rope.positive("high_freq_factor")
        if high <= low:
            raise rope.fail("high_freq_factor", f"a number above low_freq_factor ({low})")
        return RopeShape(theta=theta, kind="llama3", factor=rope.positive("factor"),
                         original_context=original, low_freq_factor=low, high_freq_factor=high)  # fmt: skip
    if theta == 1.0:
        raise config.fail("rope_theta", "a number other than 1 for yarn")
    return RopeShape(
        theta=theta,
        kind="yarn",
        factor=rope.positive("factor", context_length / original),
        original_context=original,
        beta_fast=rope.positive("beta_fast", 32.0),
        beta_slow=rope.positive("beta_slow", 1.0),
        attention_factor=rope.optional_positive("attention_factor"),
        mscale=rope.optional_positive("mscale"),
        mscale_all_dim=rope.optional_positive("mscale_all_dim"),
        truncate=rope.flag("truncate", True),
    )


def rope_to_config(rope: RopeShape) -> dict[str, Any]:
    """Both spellings, to be merged into config.json."""
    if rope.kind == "none":
        plain = {"rope_type": "default", "rope_theta": rope.theta}
        return {"rope_theta": rope.theta, "rope_scaling": None, "rope_parameters": plain}
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


def _refusal(path: Path, what: str, why: str) -> ModelError:
    return ModelError(path, f"{what} cannot be computed here ({why})", way_out="use another model")
