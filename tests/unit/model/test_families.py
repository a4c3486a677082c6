"""Families as data: whatever a family can say, it says so that the same shape is read back."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuition.core.errors import ModelError, NotFoundError, ShapeError
from tuition.model.config import config_from_shape, shape_from_config
from tuition.model.families import FAMILIES, Family, choose_family, family_named
from tuition.model.fields import Fields
from tuition.model.names import FOLDER, GGUF
from tuition.spec.counts import kv_bytes_per_token, num_parameters
from tuition.spec.shape import ModelShape, RopeShape

HERE = Path("config.json")
positive = st.floats(1e-3, 1e6)
ropes = st.one_of(
    st.builds(RopeShape, theta=st.floats(2, 1e7)),
    st.builds(RopeShape, theta=st.floats(2, 1e7), kind=st.just("linear"), factor=positive),
    st.builds(
        RopeShape, theta=st.floats(2, 1e7), kind=st.just("llama3"), factor=positive,
        original_context=st.integers(1, 10**6), low_freq_factor=st.floats(0.5, 2),
        high_freq_factor=st.floats(2.5, 8),
    ),
    st.builds(
        RopeShape, theta=st.floats(2, 1e7), kind=st.just("yarn"), factor=positive,
        original_context=st.integers(1, 10**6), beta_fast=positive, beta_slow=positive,
        attention_factor=st.none() | positive, mscale=st.none() | positive,
        mscale_all_dim=st.none() | positive, truncate=st.booleans(),
    ),
)  # fmt: skip


@st.composite
def shapes(draw: st.DrawFn) -> ModelShape:
    num_layers = draw(st.integers(1, 6))
    kv_heads = draw(st.integers(1, 4))
    layers = tuple(layer for layer in range(num_layers) if draw(st.booleans()))
    return ModelShape(
        vocab_size=draw(st.integers(1, 10**6)),
        hidden_size=draw(st.integers(1, 10_000)),
        num_layers=num_layers,
        num_heads=kv_heads * draw(st.integers(1, 4)),
        num_kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 128)),
        mlp_size=draw(st.integers(1, 10_000)),
        context_length=draw(st.integers(1, 10**6)),
        tied_head=draw(st.booleans()),
        norm_eps=draw(st.sampled_from([1e-5, 1e-6, 1e-8])),
        rope=draw(ropes),
        qk_norm=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        output_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        sliding_window=draw(st.integers(1, 100)) if layers else None,
        window_layers=layers,
    )


@given(shapes())
def test_a_family_says_a_shape_so_that_it_is_read_back_or_refuses(shape: ModelShape) -> None:
    said = 0
    for family in FAMILIES:
        try:
            config = config_from_shape(shape, family)
        except ShapeError:
            continue
        said += 1
        again = json.loads(json.dumps(config))
        assert shape_from_config(again, HERE) == (family, shape)
        old = {key: value for key, value in again.items() if key != "rope_parameters"}
        new = {key: value for key, value in again.items() if key not in ("rope_theta", "rope_scaling")}
        assert shape_from_config(old, HERE) == shape_from_config(new, HERE) == (family, shape)
    if said:
        assert choose_family(shape) in FAMILIES
    else:
        with pytest.raises(ShapeError):
            choose_family(shape)


@st.composite
def shapes_of_families(draw: st.DrawFn) -> tuple[Family, ModelShape]:
    """A shape with all that a family has beside Llama."""
    family = draw(st.sampled_from(FAMILIES))
    hidden = family.heads == "hidden_size"
    heads = draw(st.integers(1, 6))
    head_dim = 2 * draw(st.integers(1, 64))
    num_layers = draw(st.integers(1, 9))
    some = tuple(layer for layer in range(num_layers) if draw(st.booleans()))
    windowed = {"none": (), "every layer": tuple(range(num_layers))}.get(family.windows, some)
    plain = st.builds(RopeShape, theta=st.floats(2, 1e7))
    told: dict[str, Any] = {name: draw(positive) for name in family.factors}
    if family.attention_scale != "head_dim":
        scales = (
            positive
            if family.attention_scale == "attention_multiplier"
            else st.integers(1, 10**4).map(lambda value: value**-0.5)
        )
        told["attention_scale"] = draw(st.none() | scales.filter(lambda scale: scale != head_dim**-0.5))
    if family.embedding_scale == "root of hidden_size":
        told["embedding_scale"] = (heads * head_dim) ** 0.5
    if family.windows == "pattern":
        told["local_rope"] = draw(plain)
    if family.unrotated:
        told["unrotated_layers"] = some
    rope = RopeShape() if hidden else draw(ropes if "linear" in family.rope_kinds else plain)
    if family.partial_rotary and draw(st.booleans()) and head_dim > 2:
        rope = replace(rope, rotary_dim=2 * draw(st.integers(1, head_dim // 2 - 1)))
    if "longrope" in family.rope_kinds and draw(st.booleans()):
        count = (rope.rotary_dim or head_dim) // 2
        factors = st.lists(positive, min_size=count, max_size=count).map(tuple)
        rope = replace(rope, kind="longrope", original_context=90, full_context=360,
                       short_factors=draw(factors), long_factors=draw(factors),
                       factor=draw(st.sampled_from([4.0, 3.0])),
                       attention_factor=draw(st.none() | positive))  # fmt: skip
    told |= dict(
        vocab_size=50, hidden_size=heads * head_dim, num_layers=num_layers, num_heads=heads,
        num_kv_heads=heads if hidden else 1, head_dim=head_dim, mlp_size=70, context_length=90, rope=rope,
        tied_head=draw(st.booleans()), sliding_window=draw(st.integers(1, 100)) if windowed else None,
        window_layers=windowed,
    )  # fmt: skip
    return family, ModelShape(**(told | dict(family.fixed)))


@given(shapes_of_families())
def test_a_family_says_all_that_it_has(pair: tuple[Family, ModelShape]) -> None:
    family, shape = pair
    config = json.loads(json.dumps(config_from_shape(shape, family)))
    assert shape_from_config(config, HERE) == (family, shape)
    names = family.layout.stored(shape)
    assert sum(math.prod(stored.shape) for stored in names.values()) == num_parameters(shape)


LLAMA_31_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "transformers_version": "4.42.3", "use_cache": True, "vocab_size": 128256,
}  # fmt: skip
QWEN25_72B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 8192, "initializer_range": 0.02,
    "intermediate_size": 29568, "max_position_embeddings": 32768, "max_window_layers": 70,
    "model_type": "qwen2", "num_attention_heads": 64,
    "num_hidden_layers": 80, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 131072, "tie_word_embeddings": False, "use_sliding_window": False,
    "vocab_size": 152064,
}  # fmt: skip


def test_published_configs_are_read_as_published() -> None:
    family, shape = shape_from_config(LLAMA_31_8B, HERE)
    assert (family.name, num_parameters(shape)) == ("llama", 8_030_261_248)
    assert (shape.rope.kind, shape.rope.factor, shape.rope.original_context) == ("llama3", 8.0, 8_192)
    family, shape = shape_from_config(QWEN25_72B, HERE)
    assert (family.name, num_parameters(shape), shape.qkv_bias) == ("qwen2", 72_706_203_648, True)
    assert kv_bytes_per_token(shape) == 327_680
    assert shape.window_layers == ()


def test_absent_keys_mean_what_transformers_means_by_them() -> None:
    least = {"vocab_size": 10, "hidden_size": 256, "intermediate_size": 8, "num_hidden_layers": 2,
             "num_attention_heads": 64, "n_embd": 256, "n_head": 64, "n_layer": 2}  # fmt: skip
    got = {}
    for family in FAMILIES:
        _, shape = shape_from_config({**least, "model_type": family.name}, HERE)
        got[family.name] = (shape.num_kv_heads, shape.head_dim, shape.context_length, shape.sliding_window)
    assert got == {
        "llama": (64, 4, 2_048, None),
        "qwen2": (32, 4, 32_768, None),
        "qwen3": (32, 128, 32_768, None),
        "mistral": (8, 4, 131_072, 4_096),
        "smollm3": (4, 4, 32_768, None),
        "olmo2": (64, 4, 2_048, None),
        "phi3": (64, 4, 4_096, None),
        "granite": (64, 4, 2_048, None),
        "gemma3_text": (4, 256, 131_072, 4_096),
        "gpt2": (64, 4, 1_024, None),
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [("is_causal", False), ("use_bidirectional_attention", True), ("final_logit_softcapping", 30.0)],
)
def test_a_key_that_changes_the_computation_is_refused_by_name(key: str, value: Any) -> None:
    """transformers computes another network then: nothing of it is passed over."""
    shape_from_config({**LLAMA_31_8B, key: None}, HERE)
    with pytest.raises(ModelError, match=key):
        shape_from_config({**LLAMA_31_8B, key: value}, HERE)


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NotFoundError, match="llama, qwen2, qwen3, mistral, smollm3"):
        family_named("qwen3_moe")
    with pytest.raises(ModelError, match="known: llama, qwen2, qwen3, mistral, smollm3"):
        shape_from_config({"model_type": "qwen3_moe"}, HERE)


@given(shapes())
def test_every_tensor_has_its_own_name_everywhere(shape: ModelShape) -> None:
    names = list(shape.tensor_shapes())
    for layout in (FOLDER, GGUF):
        assert len({layout.name(name) for name in names}) == len(names)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(),
        st.lists,
        max_leaves=4,
    )
)
def test_untrusted_values_are_taken_or_refused_and_nothing_else(value: Any) -> None:
    fields = Fields(HERE, {"key": value})
    for read in (fields.count, fields.positive, fields.optional_count):
        try:
            got = read("key")
        except ModelError:
            continue
        assert got is None or got > 0
