"""Which keys of a GGUF file say what is computed: each is read, or known to change nothing, or refused.

In: the keys of one architecture, without its name.  Out: nothing, or a ModelError that names the key.
Source of the names: llama.cpp, src/llama-arch.cpp, LLM_KV_NAMES; of their use: src/llama-model.cpp and
src/models/.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from tuition.core.errors import ModelError
from tuition.model.families import Family
from tuition.model.fields import Fields

_READ = frozenset(
    {"block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
     "expert_count", "attention.head_count", "attention.head_count_kv", "attention.key_length",
     "attention.value_length", "attention.layer_norm_rms_epsilon", "attention.sliding_window",
     "rope.dimension_count", "rope.freq_base", "rope.scale_linear", "rope.scaling.type",
     "rope.scaling.factor", "rope.scaling.attn_factor", "rope.scaling.original_context_length",
     "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"}
)  # fmt: skip
"""Keys that `gguf_shape` reads."""

_READ_OF_WINDOWS = frozenset({"attention.sliding_window_pattern", "rope.freq_base_swa"})
"""Read where a family has a pattern of windows."""
_READ_OF_FACTORS = frozenset({"embedding_scale", "residual_scale", "logit_scale", "attention.scale"})
"""Read where a family has factors."""

_WITHOUT_EFFECT = frozenset(
    {"rope.scaling.finetuned", "pooling_type", "tensor_data_layout", "attention.layer_norm_epsilon",
     "expert_used_count", "expert_feed_forward_length", "expert_weights_scale", "expert_weights_norm",
     "expert_gating_func", "expert_group_count", "expert_group_used_count", "leading_dense_block_count"}
)  # fmt: skip
"""Keys that do not affect a token's logits, or that describe experts, which a dense model does not have."""


def _is(*neutral: Any) -> Callable[[Any], bool]:
    return lambda value: value in neutral and isinstance(value, bool) == isinstance(neutral[0], bool)


_NEUTRAL: Mapping[str, Callable[[Any], bool]] = {
    "attention.causal": _is(True),
    "use_parallel_residual": _is(False),
    "logit_scale": _is(0, 1),
    "residual_scale": _is(0, 1),
    "embedding_scale": _is(0, 1),
    "attention.output_scale": _is(0, 1),
    "attention.value_scale": _is(0, 1),
    "attn_logit_softcapping": _is(0),
    "final_logit_softcapping": _is(0),
    "attention.clamp_kqv": _is(0),
    "attention.max_alibi_bias": _is(0),
    "attention.temperature_length": _is(0),
    "attention.temperature_scale": _is(0),
    "attention.shared_kv_layers": _is(0),
    "nextn_predict_layers": _is(0),
    "expert_shared_count": _is(0),
    "hidden_activation": _is("silu", "swiglu"),
    "rope.scaling.alpha": _is(0),
    "rope.scaling.yarn_ext_factor": _is(-1, 1),
    "rope.scaling.yarn_log_multiplier": _is(0),
}
"""Keys of features that are not supported, and the values that switch the feature off."""


def check_keys(table: Fields, head_dim: int, family: Family) -> None:
    """Raises: ModelError for a key that would have to be passed over."""
    read = _READ | _WITHOUT_EFFECT
    if family.windows == "pattern":
        read |= _READ_OF_WINDOWS
    if family.factors:
        read |= _READ_OF_FACTORS
    for key, value in table.table.items():
        if key in read:
            continue
        if key == "attention.scale":
            if not isinstance(value, float) or (
                value and not math.isclose(value, head_dim**-0.5, rel_tol=1e-5)
            ):
                raise table.fail(key, f"1 / sqrt({head_dim}), the scale of this head size, or no such key")
        elif key not in _NEUTRAL:
            raise ModelError(
                table.path,
                f"has the unknown key {key[:80]} ({str(value)[:40]}), which may change what is computed",
                way_out="use a file made by llama.cpp's converter, or the Hugging Face folder",
            )
        elif not _NEUTRAL[key](value):
            raise table.fail(key, "nothing there: what it asks for is not supported")
