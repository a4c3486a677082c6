"""The shape of a decoder: every number that fixes its tensors and what its forward pass computes.

Families (Llama, Qwen2, ...) are translated to and from this one description in `model/families`.
"""

from dataclasses import dataclass, field
from typing import Literal

from tuition.core.errors import ShapeError

RopeKind = Literal["none", "linear", "llama3", "yarn", "longrope"]
NormKind = Literal["rms", "layer"]
NormPlace = Literal["before", "after", "both"]
QkNormSpan = Literal["head", "all heads"]
Activation = Literal["silu", "gelu_tanh"]
PositionKind = Literal["rotary", "learned"]


@dataclass(frozen=True)
class RopeShape:
    """Rotary positions: base frequency and how it is stretched beyond the context of pretraining."""

    theta: float = 10_000.0
    kind: RopeKind = "none"
    factor: float = 1.0
    """How many times the original context the stretched one is."""
    original_context: int = 0
    """Context of pretraining, tokens; used by llama3, yarn and longrope."""
    low_freq_factor: float = 1.0
    """llama3 only."""
    high_freq_factor: float = 4.0
    """llama3 only."""
    beta_fast: float = 32.0
    """yarn only."""
    beta_slow: float = 1.0
    """yarn only."""
    attention_factor: float | None = None
    """yarn and longrope: multiplies cos and sin; None: as their papers (or mscale, mscale_all_dim) say."""
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    """yarn only: round the bounds of the ramp to whole dimensions."""
    short_factors: tuple[float, ...] = ()
    """longrope only: how much slower each pair turns in sequences up to original_context."""
    long_factors: tuple[float, ...] = ()
    """longrope only: the same in longer ones. Kept for files, and not computed: keys that are cached already
    would have to turn again when a sequence grows longer than original_context."""
    full_context: int = 0
    """longrope only: the longest context with long_factors."""
    rotary_dim: int | None = None
    """How many dimensions of a head turn, the first ones; None: all of them."""


@dataclass(frozen=True)
class ModelShape:
    """A dense decoder. The defaults are Llama's: RMSNorm before each block, rotary grouped-query attention,
    gated SiLU feed-forward. Every other field is a difference that some family has.
    """

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
    local_rope: RopeShape | None = None
    """Rotary positions of the layers listed by window_layers; None: the same as elsewhere (Gemma 3)."""
    unrotated_layers: tuple[int, ...] = ()
    """Layers whose queries and keys have no positions (SmolLM3)."""
    positions: PositionKind = "rotary"
    """learned: one vector per position is added to the embedding, and nothing turns (GPT-2)."""
    norm: NormKind = "rms"
    """layer: subtract the mean, and add a bias (GPT-2)."""
    norm_offset: float = 0.0
    """Added to the weight of every norm before it multiplies (Gemma: 1)."""
    norm_place: NormPlace = "before"
    """Where a block of a layer is normed: what it reads, its result (OLMo 2), or both (Gemma 3)."""
    qk_norm: bool = False
    """Norm on queries and keys before rotation (Qwen3)."""
    qk_norm_span: QkNormSpan = "head"
    """What a q/k norm is taken over: each head, or all heads of a token together (OLMo 2)."""
    attention_scale: float | None = None
    """Factor on the products of queries and keys; None: head_dim ** -0.5 (Granite, Gemma 3)."""
    activation: Activation = "silu"
    gated_mlp: bool = True
    """Whether the activation of one matrix multiplies the result of another (GPT-2: no)."""
    embedding_scale: float = 1.0
    """Factor on the embedding (Gemma, Granite)."""
    residual_scale: float = 1.0
    """Factor on the result of each block before it is added (Granite)."""
    logit_divisor: float = 1.0
    """What logits are divided by (Granite)."""
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
        for rope in (self.rope, self.local_rope):
            dim = None if rope is None else rope.rotary_dim
            if dim is not None and (dim % 2 or not 2 <= dim <= self.head_dim):
                raise ShapeError(
                    "rotary_dim", wanted=f"an even number up to head_dim ({self.head_dim})", got=dim
                )
        for name in ("window_layers", "unrotated_layers"):
            layers = getattr(self, name)
            if any(not 0 <= layer < self.num_layers for layer in layers):
                raise ShapeError(name, wanted=f"layers below {self.num_layers}", got=layers)
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

    def layer_rope(self, layer: int) -> RopeShape | None:
        """Rotary positions of this layer; None where nothing turns."""
        if self.positions == "learned" or layer in self.unrotated_layers:
            return None
        return self.local_rope if self.local_rope and layer in self.window_layers else self.rope

    @property
    def ropes(self) -> tuple[RopeShape, ...]:
        """The rotary positions that layers have, each once."""
        found = (self.layer_rope(layer) for layer in range(self.num_layers))
        return tuple(dict.fromkeys(rope for rope in found if rope is not None))

    def linears(self) -> dict[str, tuple[int, int, bool]]:
        """The matrices of a layer: outputs, inputs, whether there is a bias."""
        gate = {"mlp.gate": (self.mlp_size, self.hidden_size, self.mlp_bias)}
        return {
            "attention.query": (self.query_size, self.hidden_size, self.qkv_bias),
            "attention.key": (self.kv_size, self.hidden_size, self.qkv_bias),
            "attention.value": (self.kv_size, self.hidden_size, self.qkv_bias),
            "attention.output": (self.hidden_size, self.query_size, self.output_bias),
            **(gate if self.gated_mlp else {}),
            "mlp.up": (self.mlp_size, self.hidden_size, self.mlp_bias),
            "mlp.down": (self.hidden_size, self.mlp_size, self.mlp_bias),
        }

    def norms(self) -> dict[str, int]:
        """The norms of a layer: how many numbers each has."""
        hidden, sizes = self.hidden_size, {}
        if self.norm_place != "after":
            sizes |= {"attention_norm": hidden, "mlp_norm": hidden}
        if self.norm_place != "before":
            sizes |= {"attention_post_norm": hidden, "mlp_post_norm": hidden}
        if self.qk_norm:
            whole = self.qk_norm_span == "all heads"
            sizes["attention.query_norm"] = self.query_size if whole else self.head_dim
            sizes["attention.key_norm"] = self.kv_size if whole else self.head_dim
        return sizes

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor, in our names; linear weights are (out, in)."""
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (self.vocab_size, self.hidden_size)}
        if self.positions == "learned":
            shapes["positions.weight"] = (self.context_length, self.hidden_size)

        def add_norm(name: str, size: int) -> None:
            shapes[f"{name}.weight"] = (size,)
            if self.norm == "layer":
                shapes[f"{name}.bias"] = (size,)

        linears, norms = self.linears(), self.norms()
        for layer in range(self.num_layers):
            at = f"layers.{layer}."
            for name, size in norms.items():
                add_norm(at + name, size)
            for name, (rows, columns, bias) in linears.items():
                shapes[f"{at}{name}.weight"] = (rows, columns)
                if bias:
                    shapes[f"{at}{name}.bias"] = (rows,)
        add_norm("norm", self.hidden_size)
        if not self.tied_head:
            shapes["head.weight"] = (self.vocab_size, self.hidden_size)
        return shapes


def lacks_for_induction(shape: ModelShape) -> str | None:
    """Why a model of this shape cannot start with induction heads (model/induction); None: it can."""
    plain = ModelShape(1, 1, 1, 1, 1, 2, 1, 1)
    for name in (
        "positions", "unrotated_layers", "norm", "norm_offset", "norm_place", "qk_norm_span",
        "residual_scale", "embedding_scale", "attention_scale",
    ):  # fmt: skip
        if getattr(shape, name) != getattr(plain, name):
            return f"{name} as in Llama ({getattr(plain, name)!r}), got {getattr(shape, name)!r}"
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
