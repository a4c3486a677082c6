"""config.json as published, for each family that has something beside Llama: names, sizes and numbers of
transformers' own model of it, which is built without memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tuition.model.config import shape_from_config
from tuition.spec.counts import num_parameters

CONFIGS: dict[str, dict[str, Any]] = {
    "SmolLM3-3B": {
        "architectures": ["SmolLM3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 11008,
        "layer_types": ["full_attention"] * 36, "max_position_embeddings": 65536, "max_window_layers": 28,
        "mlp_bias": False, "model_type": "smollm3", "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0] * 9, "num_attention_heads": 16, "num_hidden_layers": 36,
        "num_key_value_heads": 4, "pretraining_tp": 2, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 5000000.0, "sliding_window": None, "use_sliding_window": False, "vocab_size": 128256,
    },
    "OLMo-2-0425-1B": {
        "architectures": ["Olmo2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 4096,
        "model_type": "olmo2", "num_attention_heads": 16, "num_hidden_layers": 16, "num_key_value_heads": 16,
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 500000, "tie_word_embeddings": False,
        "vocab_size": 100352,
    },
    "Phi-3-mini-4k": {
        "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "embd_pdrop": 0.0, "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
        "max_position_embeddings": 4096, "model_type": "phi3", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 32, "original_max_position_embeddings": 4096,
        "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
        "sliding_window": 2047, "tie_word_embeddings": False, "vocab_size": 32064,
    },
    "Phi-4-mini": {
        "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "hidden_act": "silu",
        "hidden_size": 3072, "intermediate_size": 8192, "lm_head_bias": False,
        "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "phi3", "num_attention_heads": 24,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.75, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [1.5] * 48},
        "sliding_window": 262144, "tie_word_embeddings": True, "vocab_size": 200064,
    },
    "granite-3.1-2b": {
        "architectures": ["GraniteForCausalLM"], "attention_bias": False, "attention_dropout": 0.1,
        "attention_multiplier": 0.015625, "embedding_multiplier": 12.0, "hidden_act": "silu",
        "hidden_size": 2048, "intermediate_size": 8192, "logits_scaling": 8.0,
        "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "granite",
        "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8,
        "residual_multiplier": 0.22, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 5000000.0,
        "tie_word_embeddings": True, "vocab_size": 49155,
    },
    "gemma-3-270m": {
        "_sliding_window_pattern": 6, "architectures": ["Gemma3ForCausalLM"], "attention_bias": False,
        "attn_logit_softcapping": None, "final_logit_softcapping": None, "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 640, "intermediate_size": 2048,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3,
        "max_position_embeddings": 32768, "model_type": "gemma3_text", "num_attention_heads": 4,
        "num_hidden_layers": 18, "num_key_value_heads": 1, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000.0, "rope_scaling": None,
        "rope_theta": 1000000.0, "sliding_window": 512, "use_bidirectional_attention": False,
        "vocab_size": 262144,
    },
    "gpt2": {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12,
        "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "summary_type": "cls_index",
        "vocab_size": 50257,
    },
}  # fmt: skip
PUBLISHED = {"SmolLM3-3B": 3_075_098_624, "gemma-3-270m": 268_098_176, "gpt2": 124_439_808,
             "Phi-3-mini-4k": 3_821_079_552}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_the_tensors_are_those_of_transformers(name: str) -> None:
    table = CONFIGS[name]
    family, shape = shape_from_config(table, Path("config.json"))
    config = AutoConfig.for_model(**{"pad_token_id": None, **table})
    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(config)
    wanted = {key: tuple(value.shape) for key, value in theirs.named_parameters()}
    assert {key: stored.shape for key, stored in family.layout.stored(shape).items()} == wanted
    assert num_parameters(shape) == sum(value.numel() for value in theirs.parameters())
    assert num_parameters(shape) == PUBLISHED.get(name, num_parameters(shape))


def test_numbers_that_no_tensor_shows() -> None:
    shapes = {name: shape_from_config(table, Path("config.json"))[1] for name, table in CONFIGS.items()}
    assert shapes["SmolLM3-3B"].unrotated_layers == tuple(range(3, 36, 4))
    assert shapes["Phi-3-mini-4k"].window(0) == 2_047
    phi = shapes["Phi-4-mini"]
    assert (phi.context_length, phi.rope.full_context, phi.rope.rotary_dim) == (4_096, 131_072, 96)
    granite = shapes["granite-3.1-2b"]
    assert (granite.embedding_scale, granite.residual_scale, granite.logit_divisor) == (12.0, 0.22, 8.0)
    assert granite.attention_scale == 1 / 64
    gemma = shapes["gemma-3-270m"]
    assert [gemma.window(layer) for layer in (4, 5, 6)] == [512, None, 512]
    assert (gemma.rope.theta, gemma.layer_rope(0).theta) == (1e6, 1e4)  # type: ignore[union-attr]
    assert gemma.tied_head
    assert gemma.attention_scale is None
