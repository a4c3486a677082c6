"""One small shape for each family that has something beside Llama, for tests of what computes them."""

from tuition.spec.shape import ModelShape, RopeShape

_SIZES = {"vocab_size": 101, "hidden_size": 72, "num_layers": 3, "num_heads": 6, "num_kv_heads": 2,
          "head_dim": 16, "mlp_size": 90, "context_length": 640}  # fmt: skip
FAMILY_SHAPES: dict[str, ModelShape] = {
    "smollm3": ModelShape(**_SIZES, unrotated_layers=(1,)),
    "olmo2": ModelShape(
        **_SIZES, norm_place="after", qk_norm=True, qk_norm_span="all heads", tied_head=False
    ),
    "phi3": ModelShape(**_SIZES | {"head_dim": 32}, rope=RopeShape(rotary_dim=20), tied_head=False,
                       sliding_window=37, window_layers=(0, 1, 2)),
    "granite": ModelShape(**_SIZES, embedding_scale=3.0, residual_scale=0.3, logit_divisor=0.5,
                          attention_scale=0.2, qkv_bias=True, output_bias=True),
    "gemma3": ModelShape(
        **_SIZES, norm_offset=1.0, norm_place="both", qk_norm=True, activation="gelu_tanh",
        embedding_scale=72**0.5, sliding_window=37, window_layers=(0, 1), attention_scale=20**-0.5,
        local_rope=RopeShape(theta=500.0), rope=RopeShape(theta=1e6),
    ),
    "gpt2": ModelShape(
        **_SIZES | {"hidden_size": 96, "num_kv_heads": 6}, norm="layer", positions="learned",
        activation="gelu_tanh", gated_mlp=False, qkv_bias=True, output_bias=True, mlp_bias=True,
    ),
}  # fmt: skip
