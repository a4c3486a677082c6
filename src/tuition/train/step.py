"""One optimizer step: forward and backward over its microbatches, then take it or leave it.

In: the state, the microbatches, a loss.  Out: loss and gradient norm; the weights are changed in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from tuition.data.loader import Batch
from tuition.model.decoder import Decoder
from tuition.train.state import TrainState


class Loss(Protocol):
    """Sum over a batch's targets of what is to be made small, times `scale`; a scalar with gradient."""

    def __call__(self, model: Decoder, batch: Batch, scale: float) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What one optimizer step found."""

    loss: float
    """Mean over the step's targets; may be not a number."""
    grad_norm: float
    """Over all parameters, before clipping."""
    num_tokens: int
    problem: str | None
    """Why the step was not taken; None: it was."""


def train_step(
    state: TrainState, batches: Sequence[Batch], loss_fn: Loss, multiplier: float, max_grad_norm: float
) -> StepOutcome:
    """Advance `state` by one optimizer step over all `batches` together; a strange one changes no weight.

    Raises: DivergedError when too many steps had to be skipped.
    """
    num_tokens = sum(batch.num_tokens for batch in batches)
    loss = forward_backward(state, batches, loss_fn, num_tokens)
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    grad_norm = float(norm)
    problem = state.guard.problem(loss, grad_norm)
    state.step += 1
    state.num_tokens += num_tokens
    if problem is None:
        clip_grads_with_norm_(parameters, max_grad_norm, norm)
        state.optimizer.step(multiplier, state.pool)
        state.guard.take(loss, grad_norm)
    state.model.zero_grad(set_to_none=True)
    if problem is not None:
        state.guard.skip(state.step, problem)
    return StepOutcome(loss, grad_norm, num_tokens, problem)


def forward_backward(state: TrainState, batches: Sequence[Batch], loss_fn: Loss, num_tokens: int) -> float:
    """Add the gradient of the mean loss over `num_tokens` targets to the parameters; returns that mean.

    Each thread of the pool takes some rows of a batch; their gradients are added in the order of the rows, so
    that the bits depend on the number of members and not on who was ready first.
    """
    scale = 1.0 / max(1, num_tokens)
    parameters = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    total = 0.0
    for batch in batches:
        shares = batch.shares(state.pool.size)
        done = state.pool.run([partial(_gradients, state, share, loss_fn, scale) for share in shares])
        for loss, gradients in done:
            total += loss
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if parameter.grad is None:
                    parameter.grad = gradient
                elif gradient is not None:
                    parameter.grad.add_(gradient)
    return total


def _gradients(
    state: TrainState, share: Batch, loss_fn: Loss, scale: float
) -> tuple[float, tuple[Tensor | None, ...]]:
    """Loss of some rows, and its gradient by each parameter: None where it does not depend on it."""
    parameters = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    # every weight is used once in a pass: a cache of those cast would only tie the members together
    with torch.autocast(
        state.device.type, state.precision.dtype, enabled=state.precision.is_autocast, cache_enabled=False
    ):
        loss = loss_fn(state.model, share, scale)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return float(loss.detach()), gradients
