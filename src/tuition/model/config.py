"""config.json of a Hugging Face folder, to a shape and back, so that transformers opens what we write.

In: the object in the file, and the rows of `families`.  Out: a `Family` and a `ModelShape`; or the object.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuition.core.errors import ModelError, ShapeError
from tuition.model.families import FAMILIES, Family, lacking
from tuition.model.fields import MAX_LAYERS, Fields
from tuition.model.rope_fields import local_rope, rope_from_config, rope_to_config, two_ropes_to_config
from tuition.model.windows import read_windows, windows_to_config
from tuition.spec.shape import ModelShape, RopeShape

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_experts": (0, 1), "num_local_experts": (0, 1), "n_routed_experts": (0,),
    "quantization_config": ({},), "per_layer_config": ({},), "no_rope_layers": ([],),
    "final_logit_softcapping": (), "attn_logit_softcapping": (), "attention_multiplier": (),
    "logits_scaling": (1.0,), "residual_multiplier": (1.0,), "embedding_multiplier": (1.0,),
    "attention_chunk_size": (), "is_encoder_decoder": (False,), "add_cross_attention": (False,),
    "is_causal": (True,), "use_bidirectional_attention": (False,), "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,), "clip_qkv": (), "layer_norm_type": (),
}  # fmt: skip
"""Keys that change what is computed, with the values (besides null) that change nothing;
any other value is refused, except where the family has the key.
"""

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
"""Their names for ours."""
_WRITTEN_ACTIVATIONS = {("silu", True): "silu", ("gelu_tanh", True): "gelu_pytorch_tanh",
                        ("gelu_tanh", False): "gelu_new"}  # fmt: skip
"""Activation, gated or not -> the name that the families with it write."""


@dataclass(frozen=True)
class _Config:
    """One config.json, read by the keys of its family."""

    fields: Fields
    family: Family

    def key(self, key: str) -> str:
        return self.family.keys.get(key, key)

    def count(self, key: str, **limits: int) -> int:
        default = self.family.defaults.get(key)
        return self.fields.count(self.key(key), *([] if default is None else [default]), **limits)

    def kept(self, key: str) -> Any:
        """The default of an absent key; None where it follows from others, and for a null."""
        return None if key in self.fields.table else self.family.defaults.get(key)


def shape_from_config(table: Mapping[str, Any], path: Path) -> tuple[Family, ModelShape]:
    """Family and shape of a config.json. Raises:
    ModelError for what is unknown, damaged or would be ignored.
    """
    fields = Fields(path, table)
    model_type = table.get("model_type")
    known = ", ".join(family.name for family in FAMILIES)
    family = next((family for family in FAMILIES if family.name == model_type), None)
    if family is None:
        raise ModelError(path, f"model_type {str(model_type)[:60]!r} is unknown", way_out=f"known: {known}")
    _refuse_what_we_cannot_compute(fields, family)
    config = _Config(fields, family)
    num_layers = config.count("num_hidden_layers", most=MAX_LAYERS)
    context_length = config.count("max_position_embeddings")
    attention_bias = family.biases == "attention_bias" and fields.flag("attention_bias", False)
    window, window_layers = read_windows(fields, family, num_layers)
    sizes = _sizes(config)
    rope = _rope(fields, family, context_length, sizes["head_dim"])
    told: dict[str, Any] = {
        "num_layers": num_layers,
        "context_length": min(context_length, rope.original_context) if rope.long_factors else context_length,
        "vocab_size": fields.count("vocab_size"),
        "tied_head": fields.flag("tie_word_embeddings", family.defaults.get("tie_word_embeddings", False)),
        "norm_eps": fields.positive(config.key("rms_norm_eps"), family.defaults.get("rms_norm_eps", 1e-6)),
        "rope": rope,
        "local_rope": local_rope(fields, context_length, sizes["head_dim"])
        if family.windows == "pattern"
        else None,
        "unrotated_layers": _unrotated(fields, num_layers) if family.unrotated else (),
        "qkv_bias": attention_bias,
        "output_bias": attention_bias,
        "mlp_bias": family.has_mlp_bias and fields.flag("mlp_bias", False),
        "sliding_window": window,
        "window_layers": window_layers,
        "attention_scale": _attention_scale(fields, family, sizes["head_dim"]),
    }
    told |= sizes | {name: fields.positive(key, 1.0) for name, key in family.factors.items()}
    if family.embedding_scale == "root of hidden_size":
        told["embedding_scale"] = sizes["hidden_size"] ** 0.5
    try:
        return family, ModelShape(**(told | dict(family.fixed)))
    except ShapeError as error:
        raise ModelError(path, str(error), way_out="correct the file or use another model") from error


def _sizes(config: _Config) -> dict[str, int]:
    fields, family = config.fields, config.family
    heads, hidden = config.count("num_attention_heads"), config.count("hidden_size")
    if family.heads == "hidden_size":
        if hidden % heads:
            key = config.key("hidden_size")
            raise fields.fail(key, f"a multiple of {config.key('num_attention_heads')} ({heads})")
        mlp = fields.count(config.key("intermediate_size"), 4 * hidden)
        kv_heads, head_dim = heads, hidden // heads
    else:
        mlp = fields.count("intermediate_size")
        kv_heads = fields.count("num_key_value_heads", config.kept("num_key_value_heads") or heads)
        head_dim = fields.count("head_dim", config.kept("head_dim") or hidden // heads)
    return {"hidden_size": hidden, "num_heads": heads, "num_kv_heads": kv_heads, "head_dim": head_dim,
            "mlp_size": mlp}  # fmt: skip


def _rope(fields: Fields, family: Family, context_length: int, head_dim: int) -> RopeShape:
    if family.fixed.get("positions") == "learned":
        return RopeShape()
    rope = rope_from_config(
        fields, context_length, head_dim,
        default_theta=family.defaults.get("rope_theta", 10_000.0), may_be_partial=family.partial_rotary,
    )  # fmt: skip
    if rope.kind not in family.rope_kinds:
        raise fields.fail("rope_scaling", f"null: {family.name} models stretch otherwise than by {rope.kind}")
    return rope


def _attention_scale(fields: Fields, family: Family, head_dim: int) -> float | None:
    """The factor on the products of queries and keys, where it is not that of the head's size."""
    if family.attention_scale == "head_dim":
        return None
    if family.attention_scale == "attention_multiplier":
        scale = fields.positive("attention_multiplier", 1.0)
    else:
        scale = fields.positive("query_pre_attn_scalar", family.defaults["query_pre_attn_scalar"]) ** -0.5
    return None if scale == head_dim**-0.5 else scale


def _unrotated(fields: Fields, num_layers: int) -> tuple[int, ...]:
    """Layers without positions: those with a 0 in no_rope_layers, else the last of every few."""
    listed = fields.table.get("no_rope_layers")
    if listed is None:
        step = fields.count("no_rope_layer_interval", 4)
        return tuple(range(step - 1, num_layers, step))
    if (
        not isinstance(listed, list)
        or len(listed) != num_layers
        or any(turns not in (0, 1) or type(turns) is float for turns in listed)
    ):
        raise fields.fail("no_rope_layers", f"{num_layers} entries of 0 or 1")
    return tuple(layer for layer, turns in enumerate(listed) if not turns)


def _refuse_what_we_cannot_compute(config: Fields, family: Family) -> None:
    key = family.keys.get("hidden_act", "hidden_act")
    wanted = family.fixed.get("activation", "silu")
    act = config.table.get(key)
    if act is not None and (not isinstance(act, str) or _ACTIVATIONS.get(act) != wanted):
        names = " or ".join(name for name, ours in _ACTIVATIONS.items() if ours == wanted)
        raise config.fail(key, f"{names}; nothing else is supported")
    named = config.table.get("architectures")
    if named and named != [family.architecture]:
        raise config.fail("architectures", f"[{family.architecture!r}]; other heads are not supported")
    own = {
        *family.factors.values(),
        family.attention_scale,
        *(["no_rope_layers"] if family.unrotated else []),
    }
    for key, neutral in _NEUTRAL.items():
        value = config.table.get(key)
        if key not in own and value is not None and value not in neutral:
            raise config.fail(key, "nothing there: what it asks for is not supported")
    honored = {"attention_bias": family.biases == "attention_bias", "mlp_bias": family.has_mlp_bias}
    for key, is_honored in honored.items():
        if not is_honored and config.flag(key, False):
            raise config.fail(key, f"nothing there: {family.name} models have no such bias")
    if family.windows == "none" and config.table.get("sliding_window") is not None:
        raise config.fail("sliding_window", f"null: {family.name} models have no sliding window")


def config_from_shape(shape: ModelShape, family: Family) -> dict[str, Any]:
    """The object for config.json. Raises: ShapeError if the family cannot say something of the shape."""
    if missing := lacking(shape, family):
        raise ShapeError(
            f"config of family {family.name}", wanted=f"a family that has {missing}", got=family.name
        )
    sizes: dict[str, Any] = {
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.mlp_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "max_position_embeddings": shape.rope.full_context or shape.context_length,
        "rms_norm_eps": shape.norm_eps,
        "hidden_act": _WRITTEN_ACTIVATIONS[shape.activation, shape.gated_mlp],
    }
    if family.heads == "own sizes":
        sizes |= {"num_key_value_heads": shape.num_kv_heads, "head_dim": shape.head_dim}
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.name,
        "vocab_size": shape.vocab_size,
        **{family.keys.get(key, key): value for key, value in sizes.items()},
        "tie_word_embeddings": shape.tied_head,
        **{key: getattr(shape, name) for name, key in family.factors.items()},
        **windows_to_config(shape, family),
    }
    if shape.positions == "rotary" and shape.local_rope is None:
        config |= rope_to_config(shape.rope, shape.head_dim)
    elif shape.local_rope is not None:
        config |= two_ropes_to_config(shape.rope, shape.local_rope, shape.head_dim)
    scale = shape.head_dim**-0.5 if shape.attention_scale is None else shape.attention_scale
    if family.attention_scale == "attention_multiplier":
        config["attention_multiplier"] = scale
    if family.attention_scale == "query_pre_attn_scalar":
        config["query_pre_attn_scalar"] = round(scale**-2)
    if family.unrotated:
        turning = [int(layer not in shape.unrotated_layers) for layer in range(shape.num_layers)]
        config["no_rope_layers"] = turning
    if family.biases == "attention_bias":
        config["attention_bias"] = shape.qkv_bias
    if family.has_mlp_bias:
        config["mlp_bias"] = shape.mlp_bias
    return config
