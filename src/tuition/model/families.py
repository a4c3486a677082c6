"""Model families as data: how each writes its shape into config.json. No family has code of its own.

In: the object in config.json.  Out: a `Family` row and a `ModelShape`; and back, so that transformers opens
it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tuition.core.errors import ModelError, NotFoundError, ShapeError
from tuition.model.fields import MAX_LAYERS, Fields
from tuition.model.rope_fields import rope_from_config, rope_to_config
from tuition.spec.shape import ModelShape


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
    """`general.architecture` in GGUF; query and key rows are permuted there for `llama` only."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What an absent key means; None stands for a value that follows from others."""
    qk_norm: bool = False
    qkv_bias: Literal["never", "always", "attention_bias"] = "never"
    """`attention_bias`: that key decides, for query, key, value and output together."""
    has_mlp_bias: bool = False
    """Whether the key mlp_bias is honored."""
    windows: Literal["none", "every layer", "listed layers"] = "none"
    """How sliding windows are written:
    not at all, one for all layers, or with use_sliding_window and layer_types.
    """


FAMILIES: tuple[Family, ...] = (
    Family(
        name="llama",  # SmolLM, SmolLM2 and TinyLlama are of this family
        architecture="LlamaForCausalLM",
        source="https://huggingface.co/docs/transformers/model_doc/llama",
        gguf_architecture="llama",
        defaults={"num_key_value_heads": None, "head_dim": None, "max_position_embeddings": 2_048},
        qkv_bias="attention_bias",
        has_mlp_bias=True,
    ),
    Family(
        name="qwen2",
        architecture="Qwen2ForCausalLM",
        source="https://huggingface.co/docs/transformers/model_doc/qwen2",
        gguf_architecture="qwen2",
        defaults={"num_key_value_heads": 32, "head_dim": None, "max_position_embeddings": 32_768},
        qkv_bias="always",
        windows="listed layers",
    ),
    Family(
        name="qwen3",
        architecture="Qwen3ForCausalLM",
        source="https://huggingface.co/docs/transformers/model_doc/qwen3",
        gguf_architecture="qwen3",
        defaults={"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32_768},
        qk_norm=True,
        qkv_bias="attention_bias",
        windows="listed layers",
    ),
    Family(
        name="mistral",
        architecture="MistralForCausalLM",
        source="https://huggingface.co/docs/transformers/model_doc/mistral",
        gguf_architecture="llama",
        defaults={"num_key_value_heads": 8, "head_dim": None, "max_position_embeddings": 131_072,
                  "sliding_window": 4_096},
        windows="every layer",
    ),
)  # fmt: skip

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_experts": (0, 1), "num_local_experts": (0, 1), "n_routed_experts": (0,),
    "quantization_config": ({},), "per_layer_config": ({},), "no_rope_layers": ([],),
    "final_logit_softcapping": (), "attn_logit_softcapping": (), "attention_multiplier": (),
    "logits_scaling": (1.0,), "residual_multiplier": (1.0,), "embedding_multiplier": (1.0,),
    "attention_chunk_size": (), "is_encoder_decoder": (False,), "add_cross_attention": (False,),
    "is_causal": (True,), "use_bidirectional_attention": (False,),
}  # fmt: skip
"""Keys that change what is computed, with the values (besides null) that change nothing;
any other value is refused.
"""


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
        if not _unsayable(shape, family):
            return family
    reasons = "; ".join(f"{family.name}: no {_unsayable(shape, family)}" for family in rows)
    raise ShapeError("choose_family", wanted="a shape that one of the families can express", got=reasons)


def shape_from_config(table: Mapping[str, Any], path: Path) -> tuple[Family, ModelShape]:
    """Family and shape of a config.json. Raises:
    ModelError for what is unknown, damaged or would be ignored.
    """
    config = Fields(path, table)
    model_type = table.get("model_type")
    known = ", ".join(family.name for family in FAMILIES)
    family = next((family for family in FAMILIES if family.name == model_type), None)
    if family is None:
        raise ModelError(path, f"model_type {str(model_type)[:60]!r} is unknown", way_out=f"known: {known}")
    _refuse_what_we_cannot_compute(config, family)
    heads = config.count("num_attention_heads")
    hidden = config.count("hidden_size")
    context_length = config.count("max_position_embeddings", family.defaults["max_position_embeddings"])
    num_layers = config.count("num_hidden_layers", most=MAX_LAYERS)
    kv_default = family.defaults["num_key_value_heads"] if "num_key_value_heads" not in table else None
    head_default = family.defaults["head_dim"] if "head_dim" not in table else None
    attention_bias = family.qkv_bias == "attention_bias" and config.flag("attention_bias", False)
    window, window_layers = _windows(config, family, num_layers)
    try:
        return family, ModelShape(
            vocab_size=config.count("vocab_size"),
            hidden_size=hidden,
            num_layers=num_layers,
            num_heads=heads,
            num_kv_heads=config.count("num_key_value_heads", kv_default or heads),
            head_dim=config.count("head_dim", head_default or hidden // heads),
            mlp_size=config.count("intermediate_size"),
            context_length=context_length,
            tied_head=config.flag("tie_word_embeddings", False),
            norm_eps=config.positive("rms_norm_eps", 1e-6),
            rope=rope_from_config(config, context_length),
            qk_norm=family.qk_norm,
            qkv_bias=family.qkv_bias == "always" or attention_bias,
            output_bias=attention_bias,
            mlp_bias=family.has_mlp_bias and config.flag("mlp_bias", False),
            sliding_window=window,
            window_layers=window_layers,
        )
    except ShapeError as error:
        raise ModelError(path, str(error), way_out="correct the file or use another model") from error


def _refuse_what_we_cannot_compute(config: Fields, family: Family) -> None:
    act = config.table.get("hidden_act", "silu")
    if act not in ("silu", "swish"):
        raise config.fail("hidden_act", "silu, the only one supported")
    named = config.table.get("architectures")
    if named and named != [family.architecture]:
        raise config.fail("architectures", f"[{family.architecture!r}]; other heads are not supported")
    for key, neutral in _NEUTRAL.items():
        value = config.table.get(key)
        if value is not None and value not in neutral:
            raise config.fail(key, "nothing there: what it asks for is not supported")
    honored = {"attention_bias": family.qkv_bias != "never", "mlp_bias": family.has_mlp_bias}
    for key, is_honored in honored.items():
        if not is_honored and config.flag(key, False):
            raise config.fail(key, f"nothing there: {family.name} models have no such bias")
    if family.windows == "none" and config.table.get("sliding_window") is not None:
        raise config.fail("sliding_window", f"null: {family.name} models have no sliding window")


def _windows(config: Fields, family: Family, num_layers: int) -> tuple[int | None, tuple[int, ...]]:
    """The window and the layers that use it."""
    every = tuple(range(num_layers))
    listed = config.table.get("layer_types")
    kinds = ("full_attention", "sliding_attention")
    if listed is not None and (
        not isinstance(listed, list) or len(listed) != num_layers or any(kind not in kinds for kind in listed)
    ):
        raise config.fail("layer_types", f"{num_layers} entries of {kinds[0]!r} or {kinds[1]!r}")
    if family.windows == "every layer":
        has_key = "sliding_window" in config.table
        window = config.optional_count("sliding_window") if has_key else family.defaults["sliding_window"]
        layers = every if window is not None else ()
    elif family.windows == "listed layers" and config.flag("use_sliding_window", False):
        window = config.optional_count("sliding_window") if "sliding_window" in config.table else 4_096
        first = config.table.get("max_window_layers", 28)
        if type(first) is not int or first < 0:
            raise config.fail("max_window_layers", "a whole number, 0 or more")
        if listed is None:
            layers = every[first:] if window is not None else ()
        else:
            layers = tuple(layer for layer in every if listed[layer] == "sliding_attention")
    else:
        window, layers = None, ()
    says = tuple(layer for layer in every if listed is not None and listed[layer] == "sliding_attention")
    if listed is not None and says != layers:
        raise config.fail(
            "layer_types", f"what the other window settings say: windows in layers {list(layers)}"
        )
    return (window, layers) if layers else (None, ())


def _unsayable(shape: ModelShape, family: Family) -> str:
    """What of the shape a config of this family cannot say; empty if it says everything."""
    biases = {"never": (False, False), "always": (True, False)}.get(family.qkv_bias)
    if shape.qk_norm != family.qk_norm:
        return "q/k norm"
    if (shape.qkv_bias, shape.output_bias) != biases and not (
        biases is None and shape.qkv_bias == shape.output_bias
    ):
        return "biases of attention"
    if shape.mlp_bias and not family.has_mlp_bias:
        return "biases of the feed-forward"
    every = tuple(range(shape.num_layers))
    layers = tuple(sorted(set(shape.window_layers)))
    if layers and (family.windows == "none" or (family.windows == "every layer" and layers != every)):
        return "sliding windows in these layers"
    return ""


def config_from_shape(shape: ModelShape, family: Family) -> dict[str, Any]:
    """The object for config.json. Raises: ShapeError if the family cannot say something of the shape."""
    if missing := _unsayable(shape, family):
        raise ShapeError(
            f"config of family {family.name}", wanted=f"a family that has {missing}", got=family.name
        )
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.name,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.mlp_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context_length,
        "rms_norm_eps": shape.norm_eps,
        "tie_word_embeddings": shape.tied_head,
        **rope_to_config(shape.rope),
    }
    if family.qkv_bias == "attention_bias":
        config["attention_bias"] = shape.qkv_bias
    if family.has_mlp_bias:
        config["mlp_bias"] = shape.mlp_bias
    if family.windows == "every layer":
        config["sliding_window"] = shape.sliding_window if shape.window_layers else None
    if family.windows == "listed layers":
        config["use_sliding_window"] = bool(shape.window_layers)
        config["sliding_window"] = shape.sliding_window if shape.window_layers else None
        config["max_window_layers"] = min(shape.window_layers, default=shape.num_layers)
        config["layer_types"] = [
            "full_attention" if shape.window(layer) is None else "sliding_attention"
            for layer in range(shape.num_layers)
        ]
    return config
