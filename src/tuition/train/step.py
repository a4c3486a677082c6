"""One optimizer step: forward and backward over its microbatches, then the update, or a skip.

In: the state, the microbatches, a loss.  Out: loss and gradient norm; the weights are changed in place.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from tuition.train.recipe import Batch
from tuition.train.state import TrainState

Loss = Callable[[Any, float], Tensor]
"""`TrainingTask.loss`: summed over a batch's units, multiplied by a scale."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The result of one optimizer step."""

    loss: float
    """Mean over the step's units; may be not a number."""
    grad_norm: float
    """Over all parameters, before clipping."""
    num_units: int
    problem: str | None
    """Why the step was skipped; None: it was taken."""


def train_step(
    state: TrainState, batches: Sequence[Batch], loss_fn: Loss, multiplier: float, max_grad_norm: float
) -> StepOutcome:
    """Advance `state` by one optimizer step over all `batches`, of all members of the group, together; a step
    with a problem changes no weight.

    Raises: DivergedError when too many steps had to be skipped.
    """
    group = state.group
    num_units = int(group.sum(sum(batch.num_units for batch in batches)))
    loss = group.sum(forward_backward(state, batches, loss_fn, num_units))
    if group.size > 1:
        _sum_gradients(state)
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    grad_norm = float(norm)
    problem = state.guard.problem(loss, grad_norm)
    (is_skipped,) = group.decide(problem is not None)  # one member must not take what another skips
    state.step += 1
    state.num_units += num_units
    if is_skipped:
        problem = problem or "member 0 of the group skipped it"
    else:
        problem = None
        clip_grads_with_norm_(parameters, max_grad_norm, norm)
        state.optimizer.step(multiplier, state.pool)
        state.guard.take(loss, grad_norm)
    state.model.zero_grad(set_to_none=True)
    if problem is not None:
        state.guard.skip(state.step, problem)
    return StepOutcome(loss, grad_norm, num_units, problem)


def forward_backward(state: TrainState, batches: Sequence[Batch], loss_fn: Loss, num_units: int) -> float:
    """Add the gradient of the mean loss over `num_units` units to the parameters; returns that mean.

    Each thread of the pool takes some rows of a batch; their gradients are added in the order of the rows, so
    that the bits depend on the number of threads and not on which of them was ready first.
    """
    scale = 1.0 / max(1, num_units)
    parameters = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    total = 0.0
    with computed_weights(state) as used:
        for batch in batches:
            shares = batch.shares(state.pool.size)
            calls = [partial(_gradients, state, used, share, loss_fn, scale) for share in shares]
            for loss, gradients in state.pool.run(calls):
                total += loss
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    if gradient is None:
                        continue
                    if parameter.grad is None:
                        parameter.grad = gradient.to(parameter.dtype)
                    else:
                        parameter.grad.add_(gradient)
    return total


@contextmanager
def computed_weights(state: TrainState) -> Iterator[list[nn.Parameter]]:
    """The trainable tensors that the forward passes use, in the order of the parameters.

    Under autocast each matrix of a layer is rounded once here, for all shares and microbatches of the step;
    autocast itself would round it again in each of them. The values are the same.
    """
    model, kept, rounded = state.model, dict(state.model.named_parameters()), {}
    if state.precision.is_autocast:
        for name, module in model.named_modules():
            is_matrix = isinstance(module, nn.Linear) and name.startswith("layers.")
            if is_matrix and kept[f"{name}.weight"].requires_grad:
                weight = kept[f"{name}.weight"].detach()
                rounded[f"{name}.weight"] = nn.Parameter(weight.to(state.precision.dtype))
    try:
        for name, weight in rounded.items():
            model.get_submodule(name.rpartition(".")[0]).weight = weight
        yield [rounded.get(name, value) for name, value in kept.items() if value.requires_grad]
    finally:
        for name in rounded:
            model.get_submodule(name.rpartition(".")[0]).weight = kept[name]


def _sum_gradients(state: TrainState) -> None:
    """Replace each gradient by its sum over the group; a part that one member did not use is 0 there."""
    gradients = []
    for parameter in state.model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    state.group.sum_tensors(gradients)


def _gradients(
    state: TrainState, used: Sequence[Tensor], share: Batch, loss_fn: Loss, scale: float
) -> tuple[float, tuple[Tensor | None, ...]]:
    """Loss of some rows, and its gradient by each of the tensors `used`: None where it does not depend on
    it."""
    # every weight is used once in a pass: a cache of casts would only make the threads wait for each other
    with torch.autocast(
        state.device.type, state.precision.dtype, enabled=state.precision.is_autocast, cache_enabled=False
    ):
        loss = loss_fn(share, scale)
    gradients = torch.autograd.grad(loss, used, allow_unused=True)
    return float(loss.detach()), gradients
