"""Normalisation, rotation and gating with hand-written gradients: the same numbers in fewer passes over
memory, or with less of it kept.

On a CPU, a training step of a small model is limited by moving activations, and most of what is not a matrix
product is spent in these two. Without gradients the plain forward runs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def rms_norm(hidden: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Divide by the root of the mean square over the last axis, in float32; scale; cast. Source:
    arXiv:1910.07467.

    Shapes: hidden and the result (..., size); weight (size,). The result has `dtype`.
    """
    if torch.is_grad_enabled():
        return _RMSNorm.apply(hidden, weight, eps, dtype)
    return _normed(hidden, _inverse_root(hidden, eps)).mul_(weight.float()).to(dtype)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn query or key heads by the angle of their position.

    Shapes:
        heads, and the result in the same dtype: (batch, seq, heads, head_dim)
        cos, sin: (batch or 1, seq, 1, rotary_dim / 2), float32; what is behind rotary_dim stays as it is
    Source: RoFormer, arXiv:2104.09864, section 3.4.2; halves split as in Llama checkpoints.
    """
    if (turning := 2 * cos.shape[-1]) < heads.shape[-1]:
        return torch.cat((rotate(heads[..., :turning], cos, sin), heads[..., turning:]), dim=-1)
    return _Rotate.apply(heads, cos, sin) if torch.is_grad_enabled() else _turned(heads, cos, sin)


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up; the activation is computed again for the gradient instead of being kept."""
    return _GatedSilu.apply(gate, up) if torch.is_grad_enabled() else F.silu(gate) * up


def _inverse_root(hidden: Tensor, eps: float) -> Tensor:
    return torch.rsqrt(hidden.float().square().mean(-1, keepdim=True) + eps)  # (..., 1)


def _normed(hidden: Tensor, inverse: Tensor) -> Tensor:
    return hidden * inverse  # float32, since inverse is


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        inverse = _inverse_root(hidden, eps)
        ctx.save_for_backward(hidden, weight, inverse)
        return _normed(hidden, inverse).mul_(weight.float()).to(dtype)

    @staticmethod
    @once_differentiable
    # pyrefly: ignore[bad-override]  (once_differentiable is typed with a nameless first argument)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        hidden, weight, inverse = ctx.saved_tensors
        normed = _normed(hidden, inverse)
        by_weight = grad * normed  # (..., size), float32
        is_frozen = not ctx.needs_input_grad[1]
        grad_weight = None if is_frozen else by_weight.flatten(0, -2).sum(0).to(weight.dtype)
        mean = by_weight.mul_(weight).mean(-1, keepdim=True)  # (..., 1)
        scaled = grad * weight.float()
        grad_hidden = scaled.addcmul_(normed, mean, value=-1).mul_(inverse)
        return grad_hidden.to(hidden.dtype), grad_weight, None, None


class _GatedSilu(Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate) * up

    @staticmethod
    @once_differentiable
    # pyrefly: ignore[bad-override]  (once_differentiable is typed with a nameless first argument)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


class _Rotate(Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(heads, cos, sin)

    @staticmethod
    @once_differentiable
    # pyrefly: ignore[bad-override]  (once_differentiable is typed with a nameless first argument)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return (
            _turned(grad, cos, -sin),
            None,
            None,
        )  # the way back; a stretch by cos and sin is its own transpose


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = heads.float()
    swapped = wide.roll(heads.shape[-1] // 2, dims=-1)  # the right half before the left one
    turned = (wide * torch.cat((cos, cos), dim=-1)).addcmul_(swapped, torch.cat((-sin, sin), dim=-1))
    return turned.to(heads.dtype)
