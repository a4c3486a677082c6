"""Losses. The head's projection and the cross entropy are one operation, done over chunks of rows.

In: hidden states, the head's weight, targets.  Out: a scalar that can be differentiated.
Why one operation: the logits are by far the largest tensor of a small model's step. Computing their gradient
at once, chunk by chunk, means that they are never kept.
"""

from typing import Any

import torch
from torch import Tensor

from tuition.core.errors import ShapeError
from tuition.data.rows import IGNORED

CHUNK_ROWS = 256
"""Rows whose logits are in memory at once: with a vocabulary of thousands they stay in a core's cache."""
MOST_LOGITS = 6 * 2**20
"""Logits in memory at once: with a vocabulary of tens of thousands each of its copies is tens of megabytes,
in each thread."""

_LEAST_PROBABILITY = 1e-37  # a normal float32: smaller ones may count as zero, see runtime.device


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which matrices are multiplied here: autocast's where it is on, else the tensor's."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def token_losses(hidden: Tensor, head_weight: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target, in nats, 0 where the target is IGNORED; without gradient.

    Shapes:
        hidden: (..., hidden); head_weight: (vocab, hidden); targets and the result: (...), float32
    """
    with torch.no_grad():
        rows, wanted = _flatten(hidden, head_weight, targets)
        head = head_weight.to(compute_dtype(hidden))
        losses = torch.zeros(len(rows), dtype=torch.float32, device=rows.device)
        for part in (wanted != IGNORED).nonzero()[:, 0].split(CHUNK_ROWS):
            log_probs = _log_probs(rows[part].to(head.dtype), head)
            losses[part] = -log_probs.gather(1, wanted[part][:, None])[:, 0]
        return losses.view(targets.shape)


def linear_cross_entropy(hidden: Tensor, head_weight: Tensor, targets: Tensor, scale: float = 1.0) -> Tensor:
    """Sum over the targets of their negative log-likelihood in nats, times `scale`.

    With `scale` = 1 / number of targets of the whole optimizer step, the gradients of its microbatches add
    up to the gradient of the mean.
    Shapes:
        hidden: (..., hidden); head_weight: (vocab, hidden); targets: (...), IGNORED where nothing is taught
        result: scalar, float32
    Raises: ShapeError.
    """
    rows, wanted = _flatten(hidden, head_weight, targets)
    taught = (wanted != IGNORED).nonzero()[:, 0]
    if len(taught) < len(wanted):
        rows, wanted = rows.index_select(0, taught), wanted[taught]
    return _LinearCrossEntropy.apply(rows, head_weight, wanted, scale, compute_dtype(hidden))


def _flatten(hidden: Tensor, head_weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if hidden.shape[:-1] != targets.shape or hidden.shape[-1] != head_weight.shape[-1]:
        raise ShapeError(
            "cross entropy",
            wanted="hidden (..., hidden), head (vocab, hidden), targets (...)",
            got=(tuple(hidden.shape), tuple(head_weight.shape), tuple(targets.shape)),
        )
    return hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)


def _log_probs(rows: Tensor, head: Tensor) -> Tensor:
    """(rows, vocab), float32 whatever the matrices are: sums over a vocabulary need the digits."""
    with torch.autocast(rows.device.type, enabled=False):
        return torch.log_softmax((rows @ head.t()).float(), dim=-1)


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are made in the forward pass, where the probabilities are at hand. Every row is taught."""

    @staticmethod
    def forward(  # pyrefly: ignore[bad-override]
        ctx: Any, rows: Tensor, head_weight: Tensor, targets: Tensor, scale: float, dtype: torch.dtype
    ) -> Tensor:
        head = head_weight.detach().to(dtype)
        inputs = rows.detach().to(dtype)
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        rows_gradient = torch.empty_like(inputs)
        head_gradient = None  # of a frozen head there is none
        if ctx.needs_input_grad[1]:
            head_gradient = torch.zeros_like(head_weight, dtype=torch.float32)
        with torch.autocast(rows.device.type, enabled=False):
            chunk = max(1, min(CHUNK_ROWS, MOST_LOGITS // len(head)))
            for start in range(0, len(inputs), chunk):
                part = slice(start, start + chunk)
                wanted = targets[part]
                probs = torch.softmax((inputs[part] @ head.t()).float(), dim=-1)
                index = wanted[:, None]
                # a probability of 0 would be an infinite loss and no gradient less
                picked = probs.gather(1, index)[:, 0].clamp_min_(_LEAST_PROBABILITY)
                total -= picked.log_().sum()
                residual = probs.scatter_add_(1, index, probs.new_full(index.shape, -1.0))
                residual = residual.to(dtype)  # softmax minus one-hot: the gradient of the logits
                torch.mm(residual, head, out=rows_gradient[part])
                if head_gradient is not None:
                    head_gradient += residual.t() @ inputs[part]
        ctx.save_for_backward(rows_gradient, head_gradient)
        ctx.scale, ctx.rows_dtype, ctx.head_dtype = scale, rows.dtype, head_weight.dtype
        return total * scale

    @staticmethod
    def backward(  # pyrefly: ignore[bad-override]
        ctx: Any, upstream: Tensor
    ) -> tuple[Tensor, Tensor | None, None, None, None]:
        rows_gradient, head_gradient = ctx.saved_tensors
        factor = upstream * ctx.scale
        # the scale is applied in float32: 1 / targets would push small bfloat16 residuals out of their digits
        return (
            (rows_gradient.float() * factor).to(ctx.rows_dtype),
            None if head_gradient is None else (head_gradient * factor).to(ctx.head_dtype),
            None,
            None,
            None,
        )
