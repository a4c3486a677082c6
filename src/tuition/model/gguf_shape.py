"""The metadata of a GGUF file as a shape: what the keys of an architecture say, and what llama.cpp fixes in
code.

In: an opened file and the row of its family.  Out: a `ModelShape`.
Source: llama.cpp, src/models/ and src/llama-model.cpp, load_arch_hparams and load_hparams.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tuition.core.errors import ModelError, ShapeError
from tuition.model.families import Family
from tuition.model.fields import MAX_LAYERS, Fields
from tuition.model.gguf_file import GgufFile
from tuition.model.gguf_keys import check_keys
from tuition.model.rope import rope_frequencies
from tuition.spec.shape import ModelShape, RopeShape

FREQUENCY_FACTORS = "rope_freqs.weight"
LONGROPE_FACTORS = {"short_factors": "rope_factors_short.weight", "long_factors": "rope_factors_long.weight"}
"""Field of `RopeShape` -> tensor."""
_LLAMA3_ORIGINAL_CONTEXT = 8_192
LLAMA3_KEYS = {
    name: f"tuition.rope.{name}"
    for name in ("factor", "original_context", "low_freq_factor", "high_freq_factor")
}
"""Field of `RopeShape` -> the key under which our own files name it."""
_DEFAULT_THETA = 10_000.0
UNROTATED_STEP = 4
"""Of families with layers without positions, every such layer is one."""
PATTERN = 6
"""Of Gemma 3, every such layer sees everything."""
_GEMMA3_27B_LAYERS = 62
FACTOR_KEYS = {"embedding_scale": "embedding_scale", "residual_scale": "residual_scale",
               "logit_divisor": "logit_scale"}  # fmt: skip
"""Field of `ModelShape` -> key."""


@dataclass(frozen=True)
class _Source:
    """A file, its family, and the keys of its architecture without their prefix."""

    file: GgufFile
    family: Family
    table: Fields

    def refused(self, problem: str, way_out: str = "use another file") -> ModelError:
        return ModelError(self.file.path, problem, way_out=way_out)


def read_shape(file: GgufFile, family: Family) -> ModelShape:
    """The shape of the model in a file of this family's architecture. Raises: ModelError."""
    prefix = f"{family.gguf_architecture}."
    own = {key.removeprefix(prefix): value for key, value in file.metadata.items() if key.startswith(prefix)}
    source = _Source(file, family, Fields(file.path, own))
    table, tensors = source.table, file.tensors
    if table.table.get("expert_count") not in (None, 0):
        raise source.refused("is a mixture of experts", "dense models are supported so far")
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise source.refused("has no token_embd.weight of two dimensions", "use the file of a whole model")
    hidden, heads = table.count("embedding_length"), table.count("attention.head_count")
    head_dim = table.count("attention.key_length", hidden // heads)
    if table.count("attention.value_length", head_dim) != head_dim:
        raise table.fail("attention.value_length", f"the size of a head, {head_dim}")
    norm = "layer_norm_epsilon" if family.fixed.get("norm") == "layer" else "layer_norm_rms_epsilon"
    told: dict[str, Any] = {
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "num_layers": table.count("block_count", most=MAX_LAYERS),
        "num_heads": heads,
        "num_kv_heads": table.count("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "mlp_size": table.count("feed_forward_length"),
        "context_length": table.count("context_length"),
        "tied_head": "output.weight" not in tensors,
        "norm_eps": table.positive(f"attention.{norm}"),
        "qk_norm": "blk.0.attn_q_norm.weight" in tensors,
        "qkv_bias": "blk.0.attn_q.bias" in tensors,
        "output_bias": "blk.0.attn_output.bias" in tensors,
        "mlp_bias": "blk.0.ffn_down.bias" in tensors,
    }
    try:
        shape = ModelShape(**(told | dict(family.fixed)))
        shape = replace(shape, **_positions(source, shape), **_scales(source, shape))
    except ShapeError as error:
        raise source.refused(str(error)) from error
    check_keys(table, head_dim, family)
    return replace(shape, rope=_llama3_rope(source, shape)) if FREQUENCY_FACTORS in tensors else shape


def _positions(source: _Source, shape: ModelShape) -> dict[str, Any]:
    """Rotary positions, windows, and the layers that have them."""
    table, family = source.table, source.family
    if shape.positions == "learned":
        return {}
    turning = table.count("rope.dimension_count", shape.head_dim)
    if turning != shape.head_dim and not family.partial_rotary:
        raise table.fail("rope.dimension_count", f"the size of a head, {shape.head_dim}")
    is_longrope = LONGROPE_FACTORS["long_factors"] in source.file.tensors
    rope = _longrope(source, shape, turning) if is_longrope else _rope(table, shape.context_length)
    if turning != shape.head_dim:
        rope = replace(rope, rotary_dim=turning)
    found: dict[str, Any] = {"rope": rope}
    if is_longrope:
        found["context_length"] = min(shape.context_length, rope.original_context)
    has_window = table.table.get("attention.sliding_window") not in (None, 0)
    if (
        has_window
        and family.windows not in ("every layer", "pattern")
        and family.gguf_architecture != "llama"
    ):
        raise table.fail("attention.sliding_window", "nothing there: it does not say in which layers")
    if has_window:
        found["sliding_window"] = table.count("attention.sliding_window")
        found["window_layers"] = _window_layers(source, shape.num_layers)
    if family.windows == "pattern":
        found["local_rope"] = RopeShape(theta=table.positive("rope.freq_base_swa", _DEFAULT_THETA))
    if family.unrotated:
        found["unrotated_layers"] = tuple(range(UNROTATED_STEP - 1, shape.num_layers, UNROTATED_STEP))
    return found


def _window_layers(source: _Source, num_layers: int) -> tuple[int, ...]:
    every, table = range(num_layers), source.table
    if source.family.windows != "pattern":
        return tuple(every)
    pattern = table.table.get("attention.sliding_window_pattern")
    if isinstance(pattern, list | tuple | np.ndarray):
        if len(pattern) != num_layers:
            raise table.fail("attention.sliding_window_pattern", f"{num_layers} entries")
        return tuple(layer for layer in every if pattern[layer])
    step = table.count("attention.sliding_window_pattern", PATTERN)
    return tuple(layer for layer in every if (layer + 1) % step)


def _scales(source: _Source, shape: ModelShape) -> dict[str, Any]:
    table, family = source.table, source.family
    found: dict[str, Any] = {name: table.positive(FACTOR_KEYS[name], 1.0) for name in family.factors}
    if family.embedding_scale == "root of hidden_size":
        found["embedding_scale"] = shape.hidden_size**0.5
    scale = table.table.get("attention.scale") if family.attention_scale == "attention_multiplier" else None
    if scale:
        scale = table.positive("attention.scale")
    elif family.attention_scale == "query_pre_attn_scalar":
        scale = fixed_scale(shape)
    plain = shape.head_dim**-0.5
    return found | {"attention_scale": scale if scale and not np.isclose(scale, plain, rtol=1e-6) else None}


def fixed_scale(shape: ModelShape) -> float | None:
    """What llama.cpp scales the attention of Gemma 3 by; None: as the size of a head says."""
    if shape.num_layers == _GEMMA3_27B_LAYERS and shape.hidden_size // shape.num_heads != shape.head_dim:
        return (shape.hidden_size // shape.num_heads) ** -0.5
    return None


def _longrope(source: _Source, shape: ModelShape, turning: int) -> RopeShape:
    """The factors of short and long sequences, which the file holds as tensors."""
    table, file = source.table, source.file
    if "longrope" not in source.family.rope_kinds:
        raise source.refused("has rotary positions of kind longrope, unknown in this architecture")
    factors: dict[str, tuple[float, ...]] = {}
    for field, name in LONGROPE_FACTORS.items():
        entry = file.tensors.get(name)
        if entry is None or entry.type.name != "F32" or entry.shape != (turning // 2,):
            raise source.refused(f"{name} does not fit the model")
        values = file.rows(name).view(np.float32)[0]
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise source.refused(f"{name} holds what is no factor")
        factors[field] = tuple(values.tolist())
    original = table.count("rope.scaling.original_context_length", shape.context_length)
    return RopeShape(
        theta=table.positive("rope.freq_base", _DEFAULT_THETA), kind="longrope",
        factor=shape.context_length / original, original_context=original,
        full_context=shape.context_length,
        attention_factor=table.positive("rope.scaling.attn_factor", 1.0),
        short_factors=factors["short_factors"], long_factors=factors["long_factors"],
    )  # fmt: skip


def _llama3_rope(source: _Source, shape: ModelShape) -> RopeShape:
    """The llama3 parameters behind a file's table of frequency factors; refused if none are known to give it.

    Files of llama.cpp's converter hold only the table; files of ours name the parameters beside it.
    """
    file = source.file
    entry = file.tensors[FREQUENCY_FACTORS]
    if entry.type.name != "F32" or entry.shape != (shape.head_dim // 2,) or shape.rope.kind != "none":
        raise source.refused(f"{FREQUENCY_FACTORS} does not fit the model")
    factors = file.rows(FREQUENCY_FACTORS).view(np.float32)[0]
    largest = float(factors.max())
    if not 1.0 <= largest < 1e6:
        raise source.refused(f"{FREQUENCY_FACTORS} holds {largest}")
    named = Fields(file.path, file.metadata)
    rope = RopeShape(
        theta=shape.rope.theta,
        kind="llama3",
        factor=named.positive(LLAMA3_KEYS["factor"], round(largest, 3)),
        original_context=named.count(LLAMA3_KEYS["original_context"], _LLAMA3_ORIGINAL_CONTEXT),
        low_freq_factor=named.positive(LLAMA3_KEYS["low_freq_factor"], 1.0),
        high_freq_factor=named.positive(LLAMA3_KEYS["high_freq_factor"], 4.0),
    )
    if rope.high_freq_factor <= rope.low_freq_factor:
        raise named.fail(LLAMA3_KEYS["high_freq_factor"], "a number above the low one")
    plain, _ = rope_frequencies(shape.rope, shape.head_dim)
    stretched, _ = rope_frequencies(rope, shape.head_dim)
    if not np.allclose(plain / stretched, factors, rtol=1e-3):
        raise source.refused(f"{FREQUENCY_FACTORS} is no llama3 stretch that we know", "use the folder")
    return rope


def _rope(table: Fields, context: int) -> RopeShape:
    """As in llama.cpp: a factor without a kind stretches linearly, and one of 0 or 1 not at all."""
    theta = table.positive("rope.freq_base", _DEFAULT_THETA)
    kind = table.table.get("rope.scaling.type", "linear")
    factor = _rope_factor(table)
    if kind in ("none", "linear"):
        if table.optional_positive("rope.scaling.attn_factor") not in (None, 1.0):
            raise table.fail("rope.scaling.attn_factor", "1, or yarn as the kind of the stretch")
        stretched = kind == "linear" and factor != 1.0
        return RopeShape(theta=theta, kind="linear", factor=factor) if stretched else RopeShape(theta=theta)
    if kind != "yarn" or theta == 1.0:
        raise table.fail("rope.scaling.type", "none, linear or yarn")
    return RopeShape(
        theta=theta,
        kind="yarn",
        factor=factor,
        original_context=table.count("rope.scaling.original_context_length", context),
        beta_fast=table.positive("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=table.positive("rope.scaling.yarn_beta_slow", 1.0),
        attention_factor=_yarn_attention(table, factor),
    )


def _rope_factor(table: Fields) -> float:
    """Under its name, else under the one that old files use."""
    for key in ("rope.scaling.factor", "rope.scale_linear"):
        if table.table.get(key) is not None:
            return 1.0 if table.table[key] == 0 else table.positive(key)
    return 1.0


def _yarn_attention(table: Fields, factor: float) -> float | None:
    """llama.cpp multiplies its own 0.1 ln(factor) + 1 by this; None where the file leaves it at that."""
    given = table.optional_positive("rope.scaling.yarn_attn_factor")
    given = given or table.optional_positive("rope.scaling.attn_factor")
    return None if given is None or given == 1.0 else given * (0.1 * float(np.log(factor)) + 1.0)
