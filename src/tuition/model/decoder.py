"""The one definition of the language model, trained and served by the same code.

In: token ids (batch, seq) and a `Context`.  Out: hidden states (batch, seq, hidden), and logits from those.
Parameters carry exactly the names and shapes of `ModelShape.tensor_shapes()`. Families differ only in the
shape.
"""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tuition.model.context import Context
from tuition.model.gradients import gated_silu, rms_norm, rotate
from tuition.model.rotary import Angles, Rotary
from tuition.spec.shape import ModelShape


class Linear(nn.Linear):
    """A matrix and perhaps a bias, left as memory is: `Decoder.initialize` or a file fills it."""

    def reset_parameters(self) -> None:
        """Nothing: drawing numbers that are thrown away costs seconds, and on `meta` an import of the
        compiler."""


class Embedding(nn.Embedding):
    """One row per token, left as memory is."""

    def reset_parameters(self) -> None:
        """Nothing, see `Linear`."""


def _computing_type(hidden: Tensor) -> torch.dtype:
    """The type in which what follows a norm computes: under autocast a norm casts once, not each of the
    matrices that read it."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


class RMSNorm(nn.Module):
    """Divide by the root of the mean square, in float32, then scale by weight + offset. Source:
    arXiv:1910.07467."""

    def __init__(self, size: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = nn.Parameter(torch.full((size,), 1.0 - offset))

    def forward(self, hidden: Tensor) -> Tensor:
        weight = self.weight if self.offset == 0.0 else self.weight.float() + self.offset
        return rms_norm(hidden, weight, self.eps, _computing_type(hidden))


class LayerNorm(nn.Module):
    """Subtract the mean, divide by the standard deviation, in float32, then scale and shift. Source:
    arXiv:1607.06450."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, hidden: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        normed = F.layer_norm(hidden.float(), weight.shape, weight, bias, self.eps)
        return normed.to(_computing_type(hidden))


def _norm(shape: ModelShape, size: int | None) -> RMSNorm | LayerNorm | None:
    """The kind of norm that the shape has; None where there is none."""
    if size is None:
        return None
    return (
        LayerNorm(size, shape.norm_eps)
        if shape.norm == "layer"
        else RMSNorm(size, shape.norm_eps, shape.norm_offset)
    )


class Attention(nn.Module):
    """Grouped-query attention. Source: arXiv:2305.13245; q/k norm: arXiv:2505.09388."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        self.layer, self.window, self.head_dim = layer, shape.window(layer), shape.head_dim
        rope = shape.layer_rope(layer)
        self.rotation = None if rope is None else shape.ropes.index(rope)
        self.norms_heads_alone = shape.qk_norm_span == "head"
        self.query = Linear(shape.hidden_size, shape.query_size, bias=shape.qkv_bias)
        self.key = Linear(shape.hidden_size, shape.kv_size, bias=shape.qkv_bias)
        self.value = Linear(shape.hidden_size, shape.kv_size, bias=shape.qkv_bias)
        self.output = Linear(shape.query_size, shape.hidden_size, bias=shape.output_bias)
        norms = shape.norms()
        self.query_norm = _norm(shape, norms.get("attention.query_norm"))
        self.key_norm = _norm(shape, norms.get("attention.key_norm"))
        # a context scales by head_dim ** -0.5; the query makes up for another scale
        scale = shape.attention_scale
        self.query_factor = None if scale is None else scale * shape.head_dim**0.5

    def forward(self, hidden: Tensor, angles: list[Angles], context: Context) -> Tensor:
        split = (*hidden.shape[:-1], -1, self.head_dim)
        query, key = self.query(hidden), self.key(hidden)  # (batch, seq, query_size or kv_size)
        if self.norms_heads_alone:
            query, key = query.view(split), key.view(split)  # (batch, seq, heads or kv_heads, head_dim)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if not self.norms_heads_alone:
            query, key = query.view(split), key.view(split)
        value = self.value(hidden).view(split)  # (batch, seq, kv_heads, head_dim)
        if self.rotation is not None:
            cos, sin = angles[self.rotation]
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if self.query_factor is not None:
            query = query * self.query_factor
        attended = context.attend(self.layer, query, key, value, self.window)
        return self.output(attended.flatten(-2))  # (batch, seq, hidden)


class FeedForward(nn.Module):
    """Two matrices with an activation between them, or three, the activation of one gating another. Source:
    arXiv:2002.05202."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.activation = shape.activation
        hidden, inner, bias = shape.hidden_size, shape.mlp_size, shape.mlp_bias
        self.gate = Linear(hidden, inner, bias=bias) if shape.gated_mlp else None
        self.up = Linear(hidden, inner, bias=bias)
        self.down = Linear(inner, hidden, bias=bias)

    def forward(self, hidden: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(self._activate(self.up(hidden)))
        if self.activation == "silu":
            return self.down(gated_silu(self.gate(hidden), self.up(hidden)))
        return self.down(self._activate(self.gate(hidden)) * self.up(hidden))

    def _activate(self, inner: Tensor) -> Tensor:
        return F.silu(inner) if self.activation == "silu" else F.gelu(inner, approximate="tanh")


class Layer(nn.Module):
    """Attention and feed-forward, with norms before or after each and the residual stream around it."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        norms = shape.norms()
        self.residual_scale = shape.residual_scale
        self.attention_norm = _norm(shape, norms.get("attention_norm"))
        self.attention = Attention(shape, layer)
        self.attention_post_norm = _norm(shape, norms.get("attention_post_norm"))
        self.mlp_norm = _norm(shape, norms.get("mlp_norm"))
        self.mlp = FeedForward(shape)
        self.mlp_post_norm = _norm(shape, norms.get("mlp_post_norm"))

    def forward(self, hidden: Tensor, angles: list[Angles], context: Context) -> Tensor:
        read = hidden if self.attention_norm is None else self.attention_norm(hidden)
        hidden = self._add(hidden, self.attention(read, angles, context), self.attention_post_norm)
        read = hidden if self.mlp_norm is None else self.mlp_norm(hidden)
        return self._add(hidden, self.mlp(read), self.mlp_post_norm)

    def _add(self, hidden: Tensor, result: Tensor, norm: nn.Module | None) -> Tensor:
        result = result if norm is None else norm(result)
        return hidden + (result if self.residual_scale == 1.0 else result * self.residual_scale)


class Decoder(nn.Module):
    """A decoder-only transformer of the given shape, with fresh weights (see `initialize`).

    Under `torch.device("meta")` it has none: `model/load` builds it so and assigns those of a file.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = Embedding(shape.vocab_size, shape.hidden_size)
        learned = shape.positions == "learned"
        self.positions = Embedding(shape.context_length, shape.hidden_size) if learned else None
        self.layers = nn.ModuleList(Layer(shape, layer) for layer in range(shape.num_layers))
        self.norm = cast(RMSNorm | LayerNorm, _norm(shape, shape.hidden_size))
        self.head = None if shape.tied_head else Linear(shape.hidden_size, shape.vocab_size, bias=False)
        self.rotary = Rotary(shape)
        self.recomputes = False
        """Whether the backward pass computes each layer again instead of keeping what is inside of it."""
        if not self.norm.weight.is_meta:
            self.initialize()

    def forward(self, token_ids: Tensor, context: Context) -> Tensor:
        """What the output head reads: hidden states after the last norm, divided as the logits are.

        Shapes:
            token_ids: (batch, seq) integers below vocab_size
            result: (batch, seq, hidden)
        """
        shape, angles = self.shape, self.rotary.angles(context.positions)
        hidden = self.embedding(token_ids)
        if self.positions is not None:
            hidden = hidden + self.positions(context.positions)
        if shape.embedding_scale != 1.0:
            hidden = hidden * shape.embedding_scale
        for layer in self.layers:
            if self.recomputes and torch.is_grad_enabled():
                hidden = checkpoint(
                    layer, hidden, angles, context, use_reentrant=False, preserve_rng_state=False
                )
            else:
                hidden = layer(hidden, angles, context)
        hidden = self.norm(hidden)
        return hidden if shape.logit_divisor == 1.0 else hidden / shape.logit_divisor

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token: (..., hidden) -> (..., vocab)."""
        return F.linear(hidden, self.head_weight.to(hidden.dtype))  # a frozen head may be held in bfloat16

    @property
    def head_weight(self) -> Tensor:
        """(vocab, hidden): the embedding itself when the head is tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    @torch.no_grad()
    def initialize(
        self,
        std: float = 0.02,
        generator: torch.Generator | None = None,
        outputs: Literal["small", "zero"] = "small",
    ) -> "Decoder":
        """Draw fresh weights: normal, zero biases, norms at one.

        `outputs` are the matrices whose results are added to the residual stream, and a head of its own.
        "small": the former by 1 / sqrt(2 num_layers) smaller. Source: GPT-2 (Radford et al. 2019), section
        2.3. "zero": every layer begins as the identity, and all tokens as equally likely. Source: Fixup,
        arXiv:1901.09321, section 3.
        """
        residual_std = std / (2 * self.shape.num_layers) ** 0.5 if outputs == "small" else 0.0
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0 - self.shape.norm_offset)
            elif name.endswith(".bias"):
                parameter.zero_()
            elif name.endswith(("attention.output.weight", "mlp.down.weight")):
                parameter.normal_(0.0, residual_std, generator=generator)
            else:
                is_empty = name == "head.weight" and outputs == "zero"
                parameter.normal_(0.0, 0.0 if is_empty else std, generator=generator)
        return self
