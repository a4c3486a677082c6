"""Model families as data: what each has beside Llama, and how its files say it. No family has its own code.

In: a name or a shape.  Out: a `Family` row; `config` reads and writes config.json by it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from tuition.core.errors import NotFoundError, ShapeError
from tuition.model.names import FOLDER, GGUF, Layout
from tuition.spec.shape import ModelShape, RopeShape


@dataclass(frozen=True)
class Family:
    """One row: what a `model_type` means beyond the fields that all families share."""

    name: str
    """`model_type` in config.json."""
    architecture: str
    """The class named under `architectures`."""
    source: str
    """Where the conventions were read."""
    gguf_architecture: str
    """`general.architecture` in GGUF."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What an absent key means; None stands for a value that follows from others."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the shape that all its models share and that config.json does not say."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Llama's key -> the one that this family writes instead."""
    factors: Mapping[str, str] = field(default_factory=dict)
    """Fields of the shape that are numbers of their own -> their keys; absent means 1."""
    attention_scale: Literal["head_dim", "attention_multiplier", "query_pre_attn_scalar"] = "head_dim"
    """What the products of queries and keys are scaled by: a size of the heads, or such a key."""
    embedding_scale: Literal["factor", "root of hidden_size"] = "factor"
    biases: Literal["as fixed", "attention_bias"] = "as fixed"
    """`attention_bias`: that key decides, for query, key, value and output together."""
    has_mlp_bias: bool = False
    """Whether the key mlp_bias is honored."""
    windows: Literal["none", "every layer", "listed layers", "pattern"] = "none"
    """How sliding windows are written: not at all, one for all layers, with use_sliding_window and
    layer_types, or for all layers but every sixth (or as layer_types say), which turn by a base of their
    own."""
    unrotated: bool = False
    """Whether no_rope_layers says which layers have no positions."""
    heads: Literal["own sizes", "hidden_size"] = "own sizes"
    """`hidden_size`: all heads together are as wide as the model, keys as many as queries; no keys say it."""
    partial_rotary: bool = False
    """Whether partial_rotary_factor is honored."""
    rope_kinds: tuple[str, ...] = ("none", "linear", "llama3", "yarn")
    layout: Layout = FOLDER
    gguf_layout: Layout = GGUF
    permuted_in_gguf: bool = False
    """Query and key rows stand in GGUF so that neighbouring dimensions turn together."""


_POST_NORMS = {"layers.{}.attention_post_norm": "model.layers.{}.post_attention_layernorm"}
_HEAD = "layers.{}.attention."

FAMILIES: tuple[Family, ...] = (
    Family(
        name="llama",  # SmolLM, SmolLM2 and TinyLlama are of this family
        architecture="LlamaForCausalLM",
        source="https://huggingface.co/docs/transformers/model_doc/llama",
        gguf_architecture="llama",
        defaults={"max_position_embeddings": 2_048},
        biases="attention_bias",
        has_mlp_bias=True,
        permuted_in_gguf=True,
    ),
    Family(
        name="qwen2",
        architecture="Qwen2ForCausalLM",
        source="https://huggingface.co/docs/transformers/model_doc/qwen2",
        gguf_architecture="qwen2",
        defaults={"num_key_value_heads": 32, "max_position_embeddings": 32_768},
        fixed={"qkv_bias": True},
        windows="listed layers",
    ),
    Family(
        name="qwen3",
        architecture="Qwen3ForCausalLM",
        source="https://huggingface.co/docs/transformers/model_doc/qwen3",
        gguf_architecture="qwen3",
        defaults={"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32_768},
        fixed={"qk_norm": True},
        biases="attention_bias",
        windows="listed layers",
    ),
    Family(
        name="mistral",
        architecture="MistralForCausalLM",
        source="https://huggingface.co/docs/transformers/model_doc/mistral",
        gguf_architecture="llama",
        defaults={"num_key_value_heads": 8, "max_position_embeddings": 131_072, "sliding_window": 4_096},
        windows="every layer",
        permuted_in_gguf=True,
    ),
    Family(
        name="smollm3",
        architecture="SmolLM3ForCausalLM",
        source="https://huggingface.co/docs/transformers/model_doc/smollm3",
        gguf_architecture="smollm3",
        defaults={"num_key_value_heads": 4, "max_position_embeddings": 32_768, "rope_theta": 2e6,
                  "tie_word_embeddings": True},
        biases="attention_bias",
        has_mlp_bias=True,
        unrotated=True,
        permuted_in_gguf=True,
    ),
    Family(
        name="olmo2",
        architecture="Olmo2ForCausalLM",
        source="https://huggingface.co/docs/transformers/model_doc/olmo2",
        gguf_architecture="olmo2",
        defaults={"max_position_embeddings": 2_048, "rms_norm_eps": 1e-5},
        fixed={"norm_place": "after", "qk_norm": True, "qk_norm_span": "all heads"},
        biases="attention_bias",
        layout=FOLDER.changed(_POST_NORMS),
    ),
    Family(
        name="phi3",
        architecture="Phi3ForCausalLM",
        source="https://huggingface.co/docs/transformers/model_doc/phi3",
        gguf_architecture="phi3",
        defaults={"max_position_embeddings": 4_096, "rms_norm_eps": 1e-5, "sliding_window": None},
        windows="every layer",
        partial_rotary=True,
        rope_kinds=("none", "longrope"),
        layout=FOLDER.changed(
            {_HEAD + part: "model.layers.{}.self_attn.qkv_proj" for part in ("query", "key", "value")}
            | {f"layers.{{}}.mlp.{part}": "model.layers.{}.mlp.gate_up_proj" for part in ("gate", "up")}
        ),
        gguf_layout=GGUF.changed(
            {_HEAD + part: "blk.{}.attn_qkv" for part in ("query", "key", "value")}
            | {"layers.{}.mlp.gate": "blk.{}.ffn_up"}
        ),
    ),
    Family(
        name="granite",
        architecture="GraniteForCausalLM",
        source="https://huggingface.co/docs/transformers/model_doc/granite",
        gguf_architecture="granite",
        defaults={"max_position_embeddings": 2_048},
        factors={"embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier",
                 "logit_divisor": "logits_scaling"},
        attention_scale="attention_multiplier",
        biases="attention_bias",
        has_mlp_bias=True,
        permuted_in_gguf=True,
    ),
    Family(
        name="gemma3_text",
        architecture="Gemma3ForCausalLM",
        source="https://huggingface.co/docs/transformers/model_doc/gemma3",
        gguf_architecture="gemma3",
        defaults={"num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131_072,
                  "sliding_window": 4_096, "rope_theta": 1e6, "tie_word_embeddings": True,
                  "query_pre_attn_scalar": 256},
        fixed={"norm_offset": 1.0, "norm_place": "both", "qk_norm": True, "activation": "gelu_tanh"},
        keys={"hidden_act": "hidden_activation"},
        attention_scale="query_pre_attn_scalar",
        embedding_scale="root of hidden_size",
        biases="attention_bias",
        windows="pattern",
        layout=FOLDER.changed(
            {**_POST_NORMS, "layers.{}.mlp_norm": "model.layers.{}.pre_feedforward_layernorm"}
        ),
    ),
    Family(
        name="gpt2",
        architecture="GPT2LMHeadModel",
        source="https://huggingface.co/docs/transformers/model_doc/gpt2",
        gguf_architecture="gpt2",
        defaults={"max_position_embeddings": 1_024, "rms_norm_eps": 1e-5, "tie_word_embeddings": True},
        fixed={"norm": "layer", "positions": "learned", "activation": "gelu_tanh", "gated_mlp": False,
               "qkv_bias": True, "output_bias": True, "mlp_bias": True},
        keys={"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
              "intermediate_size": "n_inner", "max_position_embeddings": "n_positions",
              "rms_norm_eps": "layer_norm_epsilon", "hidden_act": "activation_function"},
        heads="hidden_size",
        rope_kinds=("none",),
        layout=FOLDER.changed(
            {"embedding": "transformer.wte", "positions": "transformer.wpe", "norm": "transformer.ln_f",
             "layers.{}.attention_norm": "transformer.h.{}.ln_1",
             "layers.{}.mlp_norm": "transformer.h.{}.ln_2",
             "layers.{}.attention.output": "transformer.h.{}.attn.c_proj",
             "layers.{}.mlp.up": "transformer.h.{}.mlp.c_fc",
             "layers.{}.mlp.down": "transformer.h.{}.mlp.c_proj"}
            | {_HEAD + part: "transformer.h.{}.attn.c_attn" for part in ("query", "key", "value")},
            turned=True,
        ),
        gguf_layout=GGUF.changed({_HEAD + part: "blk.{}.attn_qkv" for part in ("query", "key", "value")}),
    ),
)  # fmt: skip

_FEATURES = {
    "norm": "norms of this kind", "norm_offset": "offset of norms", "norm_place": "norms in these places",
    "qk_norm": "q/k norm", "qk_norm_span": "q/k norm of this span", "activation": "activation of this kind",
    "gated_mlp": "feed-forward of this kind", "positions": "positions of this kind",
    "residual_scale": "scale of the residual", "logit_divisor": "scale of logits",
    "mlp_bias": "biases of the feed-forward",
}  # fmt: skip
"""Fields of the shape that a family fixes, or has a key for, or does not have; and their words."""
_PLAIN = {one.name: one.default for one in fields(ModelShape)}


def family_named(name: str) -> Family:
    """The row of a `model_type`. Raises: NotFoundError, with the known ones."""
    for family in FAMILIES:
        if family.name == name:
            return family
    raise NotFoundError("model family", name, [family.name for family in FAMILIES])


def choose_family(shape: ModelShape, gguf_architecture: str | None = None) -> Family:
    """The first family (of that GGUF architecture) whose config can say everything about this shape.

    Raises: ShapeError if none can.
    """
    rows = [family for family in FAMILIES if gguf_architecture in (None, family.gguf_architecture)]
    for family in rows:
        if not lacking(shape, family):
            return family
    reasons = "; ".join(f"{family.name}: no {lacking(shape, family)}" for family in rows)
    raise ShapeError("choose_family", wanted="a shape that one of the families can express", got=reasons)


def lacking(shape: ModelShape, family: Family) -> str:
    """What of the shape a config of this family cannot say; empty if it says everything."""
    fixed = family.fixed
    for name, words in _FEATURES.items():
        has_key = name in family.factors or (name == "mlp_bias" and family.has_mlp_bias)
        if not has_key and getattr(shape, name) != fixed.get(name, _PLAIN[name]):
            return words
    biases = shape.qkv_bias, shape.output_bias
    if family.biases == "attention_bias":
        if biases[0] != biases[1]:
            return "bias on only a part of attention"
    elif biases != (fixed.get("qkv_bias", False), fixed.get("output_bias", False)):
        return "biases of attention"
    return _lacking_sizes(shape, family) or _lacking_positions(shape, family)


def _lacking_sizes(shape: ModelShape, family: Family) -> str:
    if family.heads == "hidden_size" and not (
        shape.num_kv_heads == shape.num_heads and shape.query_size == shape.hidden_size
    ):
        return "heads of other sizes than hidden_size / num_heads"
    if family.embedding_scale == "root of hidden_size":
        if shape.embedding_scale != shape.hidden_size**0.5:
            return "scale of the embedding"
    elif "embedding_scale" not in family.factors and shape.embedding_scale != 1.0:
        return "scale of the embedding"
    scale = shape.attention_scale
    if family.attention_scale == "query_pre_attn_scalar":
        whole = None if scale is None else round(scale**-2)
        if scale is not None and (scale == shape.head_dim**-0.5 or whole is None or whole**-0.5 != scale):
            return "scale of attention"
    elif scale is not None and (family.attention_scale == "head_dim" or scale == shape.head_dim**-0.5):
        return "scale of attention"
    return ""


def _lacking_positions(shape: ModelShape, family: Family) -> str:
    every = tuple(range(shape.num_layers))
    layers = tuple(sorted(set(shape.window_layers)))
    if layers and (family.windows == "none" or (family.windows == "every layer" and layers != every)):
        return "sliding windows in these layers"
    if shape.unrotated_layers and not family.unrotated:
        return "layers without positions"
    if (shape.local_rope is not None) != (family.windows == "pattern"):
        return "rotary positions of these two kinds"
    if shape.positions == "learned" and shape.rope != RopeShape():
        return "rotary positions"
    for rope in (shape.rope, shape.local_rope):
        if rope is not None and rope.kind not in family.rope_kinds:
            return f"rotary positions of kind {rope.kind}"
        if rope is not None and rope.rotary_dim is not None and not family.partial_rotary:
            return "partial rotary positions"
    return ""
