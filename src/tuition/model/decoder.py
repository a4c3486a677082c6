"""The one definition of the language model, trained and served by the same code.

In: token ids (batch, seq) and a `Context`.  Out: hidden states (batch, seq, hidden), and logits from those.
Parameters carry exactly the names and shapes of `ModelShape.tensor_shapes()`. Families differ only in the
shape.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuition.model.context import Context
from tuition.model.gradients import rms_norm, rotate
from tuition.model.rotary import Rotary
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


class RMSNorm(nn.Module):
    """Divide by the root of the mean square, in float32, then scale. Source: arXiv:1910.07467.

    The result has the type in which what follows computes: under autocast that is cast once here, not by each
    of the matrices that read it.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, hidden: Tensor) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        return rms_norm(hidden, self.weight, self.eps, dtype)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions. Source: arXiv:2305.13245; q/k norm: arXiv:2505.09388."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        self.layer, self.window, self.head_dim = layer, shape.window(layer), shape.head_dim
        self.query = Linear(shape.hidden_size, shape.query_size, bias=shape.qkv_bias)
        self.key = Linear(shape.hidden_size, shape.kv_size, bias=shape.qkv_bias)
        self.value = Linear(shape.hidden_size, shape.kv_size, bias=shape.qkv_bias)
        self.output = Linear(shape.query_size, shape.hidden_size, bias=shape.output_bias)
        self.query_norm = RMSNorm(shape.head_dim, shape.norm_eps) if shape.qk_norm else None
        self.key_norm = RMSNorm(shape.head_dim, shape.norm_eps) if shape.qk_norm else None

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, context: Context) -> Tensor:
        split = (*hidden.shape[:-1], -1, self.head_dim)
        query = self.query(hidden).view(split)  # (batch, seq, heads, head_dim)
        key = self.key(hidden).view(split)  # (batch, seq, kv_heads, head_dim)
        value = self.value(hidden).view(split)  # (batch, seq, kv_heads, head_dim)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        attended = context.attend(self.layer, query, key, value, self.window)
        return self.output(attended.flatten(-2))  # (batch, seq, hidden)


class FeedForward(nn.Module):
    """Gated SiLU. Source: arXiv:2002.05202."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate = Linear(shape.hidden_size, shape.mlp_size, bias=shape.mlp_bias)
        self.up = Linear(shape.hidden_size, shape.mlp_size, bias=shape.mlp_bias)
        self.down = Linear(shape.mlp_size, shape.hidden_size, bias=shape.mlp_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(hidden)) * self.up(hidden))


class Layer(nn.Module):
    """Attention and feed-forward, each with a norm before and the residual stream around it."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.hidden_size, shape.norm_eps)
        self.attention = Attention(shape, layer)
        self.mlp_norm = RMSNorm(shape.hidden_size, shape.norm_eps)
        self.mlp = FeedForward(shape)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, context: Context) -> Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), cos, sin, context)
        return hidden + self.mlp(self.mlp_norm(hidden))


class Decoder(nn.Module):
    """A decoder-only transformer of the given shape, with fresh weights (see `initialize`).

    Under `torch.device("meta")` it has none: `model/load` builds it so and assigns those of a file.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape, layer) for layer in range(shape.num_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.norm_eps)
        self.head = None if shape.tied_head else Linear(shape.hidden_size, shape.vocab_size, bias=False)
        self.rotary = Rotary(shape)
        if not self.norm.weight.is_meta:
            self.initialize()

    def forward(self, token_ids: Tensor, context: Context) -> Tensor:
        """Hidden states after the last norm.

        Shapes:
            token_ids: (batch, seq) integers below vocab_size
            result: (batch, seq, hidden)
        """
        cos, sin = self.rotary.angles(context.positions)
        hidden = self.embedding(token_ids)
        for layer in self.layers:
            hidden = layer(hidden, cos, sin, context)
        return self.norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token: (..., hidden) -> (..., vocab)."""
        return F.linear(hidden, self.head_weight)

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
                parameter.fill_(1.0)
            elif name.endswith(".bias"):
                parameter.zero_()
            elif name.endswith(("attention.output.weight", "mlp.down.weight")):
                parameter.normal_(0.0, residual_std, generator=generator)
            else:
                is_empty = name == "head.weight" and outputs == "zero"
                parameter.normal_(0.0, 0.0 if is_empty else std, generator=generator)
        return self
