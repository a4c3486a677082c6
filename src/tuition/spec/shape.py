"""The shape of a decoder: every number that fixes its tensors and what its forward pass computes.

Families (Llama, Qwen2, ...) are translated to and from this one description in `model/families`.
"""

from dataclasses import dataclass, field
from typing import Literal

from tuition.core.errors import ShapeError

RopeKind = Literal["none", "linear", "llama3", "yarn"]


@dataclass(frozen=True)
class RopeShape:
    """Rotary positions: base frequency and how it is stretched beyond the context of pretraining."""

    theta: float = 10_000.0
    kind: RopeKind = "none"
    factor: float = 1.0
    """How many times the original context the stretched one is."""
    original_context: int = 0
    """Context of pretraining, tokens; used by llama3 and yarn."""
    low_freq_factor: float = 1.0
    """llama3 only."""
    high_freq_factor: float = 4.0
    """llama3 only."""
    beta_fast: float = 32.0
    """yarn only."""
    beta_slow: float = 1.0
    """yarn only."""
    attention_factor: float | None = None
    """yarn only: multiplies cos and sin; None: 0.1 ln(factor) + 1, or as mscale and mscale_all_dim say."""
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    """yarn only: round the bounds of the ramp to whole dimensions."""


@dataclass(frozen=True)
class ModelShape:
    """A dense decoder: RMSNorm before each block, rotary grouped-query attention, gated SiLU feed-forward."""

    vocab_size: int
    """Rows of the embedding, tokens."""
    hidden_size: int
    """Width of the residual stream."""
    num_layers: int
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key and value heads; divides num_heads."""
    head_dim: int
    mlp_size: int
    """Width inside the feed-forward block."""
    context_length: int
    """Most tokens in one sequence."""
    tied_head: bool = True
    """The output head is the embedding."""
    norm_eps: float = 1e-5
    rope: RopeShape = field(default_factory=RopeShape)
    qk_norm: bool = False
    """RMSNorm on each query and key head before rotation (Qwen3)."""
    qkv_bias: bool = False
    """Bias on query, key and value (Qwen2)."""
    output_bias: bool = False
    """Bias on the attention output (Llama with attention_bias has it on all four)."""
    mlp_bias: bool = False
    sliding_window: int | None = None
    """Keys a query sees, itself included, in the layers listed by window_layers; None: all."""
    window_layers: tuple[int, ...] = ()
    """Layers that use sliding_window."""

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_size",
            "context_length",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ShapeError(name, wanted="at least 1", got=getattr(self, name))
        if self.num_heads % self.num_kv_heads:
            raise ShapeError(
                "num_kv_heads", wanted=f"a divisor of num_heads ({self.num_heads})", got=self.num_kv_heads
            )
        if self.head_dim % 2:
            raise ShapeError(
                "head_dim", wanted="an even number (rotary positions turn pairs)", got=self.head_dim
            )
        if any(not 0 <= layer < self.num_layers for layer in self.window_layers):
            raise ShapeError(
                "window_layers", wanted=f"layers below {self.num_layers}", got=self.window_layers
            )
        if self.window_layers and (self.sliding_window is None or self.sliding_window < 1):
            raise ShapeError(
                "sliding_window", wanted="at least 1 where window_layers are named", got=self.sliding_window
            )

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key (or value) heads together."""
        return self.num_kv_heads * self.head_dim

    def window(self, layer: int) -> int | None:
        """Keys a query of this layer sees, or None for all of them."""
        return self.sliding_window if layer in self.window_layers else None

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor, in our names; linear weights are (out, in)."""
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (self.vocab_size, self.hidden_size)}
        linears = {
            "attention.query": (self.query_size, self.hidden_size, self.qkv_bias),
            "attention.key": (self.kv_size, self.hidden_size, self.qkv_bias),
            "attention.value": (self.kv_size, self.hidden_size, self.qkv_bias),
            "attention.output": (self.hidden_size, self.query_size, self.output_bias),
            "mlp.gate": (self.mlp_size, self.hidden_size, self.mlp_bias),
            "mlp.up": (self.mlp_size, self.hidden_size, self.mlp_bias),
            "mlp.down": (self.hidden_size, self.mlp_size, self.mlp_bias),
        }
        for layer in range(self.num_layers):
            at = f"layers.{layer}."
            shapes[at + "attention_norm.weight"] = (self.hidden_size,)
            shapes[at + "mlp_norm.weight"] = (self.hidden_size,)
            if self.qk_norm:
                shapes[at + "attention.query_norm.weight"] = (self.head_dim,)
                shapes[at + "attention.key_norm.weight"] = (self.head_dim,)
            for name, (rows, columns, bias) in linears.items():
                shapes[f"{at}{name}.weight"] = (rows, columns)
                if bias:
                    shapes[f"{at}{name}.bias"] = (rows,)
        shapes["norm.weight"] = (self.hidden_size,)
        if not self.tied_head:
            shapes["head.weight"] = (self.vocab_size, self.hidden_size)
        return shapes


def lacks_for_induction(shape: ModelShape) -> str | None:
    """Why a model of this shape cannot start with induction heads (model/induction); None: it can."""
    for what, value, low, high in (
        ("layers", shape.num_layers, 2, None),
        ("numbers in the residual stream", shape.hidden_size, 32, None),
        ("numbers in a head", shape.head_dim, 16, shape.hidden_size),
    ):
        if value < low:
            return f"{low} {what} or more, got {value}"
        if high is not None and value > high:
            return f"at most {high} {what}, got {value}"
    return None
