"""A frozen matrix in packed form, with or without an adapter that is trained.

In: inputs of the matrix.  Out: their product with the matrix, plus the product of the adapter. No gradient of
the frozen matrix is computed and no float32 copy of it is made. The forward pass saves only the inputs and
their product with A.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from tuition.model.adapter_settings import AdapterSettings

Frozen = Literal["float32", "bfloat16", "int8"]
"""Number format of frozen matrices. int8: integers from -127 to 127 and one scale per row."""

_drawing = threading.local()


@contextmanager
def dropout_seeded(seed: int) -> Iterator[None]:
    """Inside, the adapters of this thread apply dropout, drawn from `seed`. Outside, there is no dropout."""
    before = getattr(_drawing, "generator", None)
    _drawing.generator = torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        _drawing.generator = before


class LowRank(nn.Module):
    """The trained part: `down` is A (rank, inputs), `up` is B (outputs, rank), both float32."""

    def __init__(self, inputs: int, outputs: int, settings: AdapterSettings) -> None:
        super().__init__()
        self.settings, self.scale = settings, settings.scale_for(settings.rank)
        self.down = nn.Parameter(torch.zeros(settings.rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, settings.rank))


class FrozenLinear(nn.Module):
    """A linear layer whose weight (outputs, inputs) does not change. Computes in the dtype of its inputs, or
    in that of autocast."""

    def __init__(self, weight: Tensor, frozen: Frozen, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        packed, scale = _pack(weight, frozen)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.row_scale = None if scale is None else nn.Parameter(scale, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.pair: LowRank | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        kind = inputs.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
        inputs = inputs.to(dtype)
        pair = self.pair
        if pair is None:
            return _Product.apply(inputs, self, None, None, None)
        return _Product.apply(inputs, self, pair.down, pair.up, _kept(inputs, pair.settings.dropout))

    def value(self) -> Tensor:
        """The matrix without the adapter, unpacked to float32: (outputs, inputs)."""
        wide = self.weight.detach().float()
        return wide if self.row_scale is None else wide * self.row_scale[:, None]


class FrozenEmbedding(nn.Module):
    """An embedding (vocab, hidden) that does not change. Its outputs are float32 in every format of the
    table."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, token_ids: Tensor) -> Tensor:
        return nn.functional.embedding(token_ids, self.weight).float()


def _pack(weight: Tensor, frozen: Frozen) -> tuple[Tensor, Tensor | None]:
    """The packed matrix as a copy, and the scales of its rows (int8) or None."""
    if frozen != "int8":
        return weight.to(getattr(torch, frozen), copy=True), None
    wide = weight.to(torch.float32, copy=True)
    scale = wide.abs().amax(dim=1).div_(127)  # (rows,)
    whole = wide.div_(scale.clamp_min(1e-30)[:, None]).round_().clamp_(-127, 127)
    return whole.to(torch.int8), scale


def _kept(inputs: Tensor, dropout: float) -> Tensor | None:
    """Dropout mask for the inputs of A: 0 or 1 / (1 - dropout); None: no dropout."""
    generator = getattr(_drawing, "generator", None)
    if not dropout or generator is None:
        return None
    drawn = torch.rand(inputs.shape, generator=generator, dtype=torch.float32)
    return (drawn >= dropout).to(inputs.device, inputs.dtype).div_(1 - dropout)


class _Product(Function):
    """inputs @ weight.T + scale * (inputs @ down.T) @ up.T"""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        layer: FrozenLinear,
        down: Tensor | None,
        up: Tensor | None,
        kept: Tensor | None,
    ) -> Tensor:
        dtype = inputs.dtype
        rows = inputs.flatten(0, -2)  # (rows, inputs)
        result = rows @ layer.weight.to(dtype).t()  # (rows, outputs)
        if layer.row_scale is not None:
            result *= layer.row_scale.to(dtype)
        if layer.bias is not None:
            result += layer.bias.to(dtype)
        ctx.layer, ctx.shape = layer, inputs.shape
        if layer.pair is not None and down is not None and up is not None:
            dropped = rows if kept is None else rows * kept.flatten(0, -2)
            thin = dropped @ down.to(dtype).t()  # (rows, rank)
            result.addmm_(thin, up.to(dtype).t(), alpha=layer.pair.scale)
            ctx.save_for_backward(rows, thin, down, up, kept)
        return result.view(*inputs.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    # pyrefly: ignore[bad-override]  (once_differentiable is typed with a nameless first argument)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer: FrozenLinear = ctx.layer
        grad = grad.flatten(0, -2)  # (rows, outputs)
        to_inputs = to_down = to_up = None
        if ctx.needs_input_grad[0]:
            scaled = grad if layer.row_scale is None else grad * layer.row_scale.to(grad.dtype)
            to_inputs = scaled @ layer.weight.to(grad.dtype)  # (rows, inputs)
        if layer.pair is not None:
            rows, thin, down, up, kept = ctx.saved_tensors
            scale = layer.pair.scale
            to_thin = (grad @ up.to(grad.dtype)).mul_(scale)  # (rows, rank)
            to_up = (grad.t() @ thin).float().mul_(scale)  # (outputs, rank)
            if kept is not None:
                kept = kept.flatten(0, -2)
            to_down = (to_thin.t() @ (rows if kept is None else rows * kept)).float()  # (rank, inputs)
            if to_inputs is not None and kept is None:
                to_inputs.addmm_(to_thin, down.to(grad.dtype))
            elif to_inputs is not None:
                to_inputs += (to_thin @ down.to(grad.dtype)).mul_(kept)
        if to_inputs is not None:
            to_inputs = to_inputs.view(ctx.shape)
        return to_inputs, None, to_down, to_up, None
