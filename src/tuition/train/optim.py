"""Optimizers: AdamW, and Muon for the matrices with AdamW for the rest.

In: named parameters with gradients and a multiplier from the schedule.  Out: the parameters, changed in
place.
State is handed out and taken back as named tensors, so that a checkpoint is plain safetensors.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from tuition.core.errors import ModelError
from tuition.runtime.thread_pool import NO_POOL, ThreadPool
from tuition.train.settings import PRETRAINING, OptimizerSettings, rates_of


class Optimizer(Protocol):
    """Changes parameters; owns their moments."""

    def step(self, multiplier: float, pool: ThreadPool = NO_POOL) -> None:
        """One update with every learning rate times `multiplier`, split across `pool`."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The state by name; the tensors themselves, not copies."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the state back. Raises: ModelError when names or shapes do not fit."""
        ...


class AdamW:
    """Adam with decoupled weight decay. Source: arXiv:1711.05101. Vectors (norms, biases) and the embedding
    do not decay."""

    def __init__(self, parameters: Mapping[str, Tensor], settings: OptimizerSettings) -> None:
        self.parameters, self.settings, self.rates = dict(parameters), settings, rates_of(settings)
        self.first = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        self.second = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        self.count = torch.zeros((), dtype=torch.float32)

    def step(self, multiplier: float, pool: ThreadPool = NO_POOL) -> None:
        pool.run(self.calls(multiplier))

    def calls(self, multiplier: float) -> list[Callable[[], None]]:
        """The update as work for a pool."""
        return [partial(self._update, multiplier)]

    @torch.no_grad()
    def _update(self, multiplier: float) -> None:
        """One pass over memory for each tensor (torch's fused kernel): a step of a large model is limited by
        it."""
        given = {name: value for name, value in self.parameters.items() if value.grad is not None}
        for is_decayed in (True, False):
            chosen = {name: value for name, value in given.items() if decays(name, value) is is_decayed}
            adamw(
                list(chosen.values()),
                [value.grad for value in chosen.values() if value.grad is not None],
                [self.first[name] for name in chosen],
                [self.second[name] for name in chosen],
                [],
                [self.count.clone() for _ in chosen],  # each is counted up
                fused=True,
                amsgrad=False,
                beta1=self.settings.beta1,
                beta2=self.settings.beta2,
                lr=self.rates.lr * multiplier,
                weight_decay=self.rates.weight_decay if is_decayed else 0.0,
                eps=self.settings.epsilon,
                maximize=False,
            )
        self.count += 1

    def tensors(self) -> dict[str, Tensor]:
        named = {f"first.{name}": value for name, value in self.first.items()}
        return (
            named | {f"second.{name}": value for name, value in self.second.items()} | {"count": self.count}
        )

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        take_tensors(self.tensors(), tensors)


class Muon:
    """Momentum whose update is made orthogonal, for matrices. Source: Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon.

    The update is scaled by sqrt(max(1, rows / columns)), as there. Matrices of one shape, lying or
    standing, go through Newton-Schulz together, in as many stacks as the pool has threads.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], settings: OptimizerSettings, dtype: torch.dtype
    ) -> None:
        self.parameters, self.settings, self.dtype = dict(parameters), settings, dtype
        self.rates = rates_of(settings)
        self.momentum = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        self._alike: dict[tuple[int, ...], list[str]] = {}
        for name, value in self.parameters.items():
            self._alike.setdefault(tuple(sorted(value.shape)), []).append(name)

    def step(self, multiplier: float, pool: ThreadPool = NO_POOL) -> None:
        pool.run(self.calls(multiplier, pool.size))

    def calls(self, multiplier: float, parts: int = 1) -> list[Callable[[], None]]:
        """The update as work for a pool: matrices of one shape in `parts` stacks."""
        lr = self.rates.muon_lr * multiplier
        calls: list[Callable[[], None]] = []
        for names in self._alike.values():
            gradients = {name: self.parameters[name].grad for name in names}
            given = [(name, gradient) for name, gradient in gradients.items() if gradient is not None]
            stacks = [dict(given[part::parts]) for part in range(min(parts, len(given)))]
            calls += [partial(self._update_alike, stack, lr) for stack in stacks]
        return calls

    @torch.no_grad()
    def _update_alike(self, gradients: Mapping[str, Tensor], lr: float) -> None:
        beta = self.settings.muon_momentum
        wide = []
        for name, gradient in gradients.items():
            momentum = self.momentum[name]
            momentum.lerp_(gradient, 1 - beta)
            update = torch.lerp(gradient, momentum, beta)  # Nesterov: look one step ahead
            wide.append(update if update.shape[0] <= update.shape[1] else update.t())
        directions = orthogonalize(torch.stack(wide).to(self.dtype)).float()
        for name, direction in zip(gradients, directions, strict=True):
            parameter = self.parameters[name]
            rows, columns = parameter.shape
            if self.rates.weight_decay:
                parameter.mul_(1 - lr * self.rates.weight_decay)
            turned = direction if rows <= columns else direction.t()
            parameter.add_(turned, alpha=-lr * max(1.0, rows / columns) ** 0.5)

    def tensors(self) -> dict[str, Tensor]:
        return {f"momentum.{name}": value for name, value in self.momentum.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        take_tensors(self.tensors(), tensors)


class MuonAdamW:
    """Muon for the matrices inside the layers, AdamW for embedding, head, norms and biases."""

    def __init__(
        self, parameters: Mapping[str, Tensor], settings: OptimizerSettings, dtype: torch.dtype
    ) -> None:
        matrices = {name: value for name, value in parameters.items() if is_layer_matrix(name, value)}
        rest = {name: value for name, value in parameters.items() if name not in matrices}
        self.muon, self.adamw = Muon(matrices, settings, dtype), AdamW(rest, settings)

    def step(self, multiplier: float, pool: ThreadPool = NO_POOL) -> None:
        pool.run(self.muon.calls(multiplier, pool.size) + self.adamw.calls(multiplier))

    def tensors(self) -> dict[str, Tensor]:
        return self.muon.tensors() | self.adamw.tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        take_tensors(self.tensors(), tensors)


def is_layer_matrix(name: str, value: Tensor) -> bool:
    return value.dim() == 2 and name.startswith("layers.")


def decays(name: str, value: Tensor) -> bool:
    """Weight decay pulls on matrices of the layers and on an untied head."""
    return is_layer_matrix(name, value) or name == "head.weight"


def orthogonalize(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Approximate the closest orthogonal matrix of each, by a quintic Newton-Schulz iteration.

    Singular values end up in about [0.7, 1.2], which is all that an update needs; the coefficients trade
    exactness for speed of the small ones. Source: as Muon.
    Shapes: (count, rows, columns) with rows <= columns, and the result.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    turned = matrices / (torch.linalg.matrix_norm(matrices.float(), keepdim=True) + 1e-7).to(matrices.dtype)
    for _ in range(rounds):
        gram = turned @ turned.transpose(1, 2)  # (count, rows, rows)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        turned = torch.baddbmm(turned, polynomial, turned, beta=a)
    return turned


def make_optimizer(
    named_parameters: Iterable[tuple[str, Tensor]], settings: OptimizerSettings, dtype: torch.dtype
) -> Optimizer:
    """The optimizer that the settings name; `dtype` is what Muon's matrix products are done in."""
    parameters = {name: value for name, value in named_parameters if value.requires_grad}
    if settings.filled(PRETRAINING).kind == "adamw":
        return AdamW(parameters, settings)
    return MuonAdamW(parameters, settings, dtype)


def take_tensors(held: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Copy `given` into `held`. Raises: ModelError when the names or shapes differ."""
    for name in held.keys() ^ given.keys():
        raise ModelError(
            name, "is not in both the checkpoint and this run", way_out="resume with the run's own settings"
        )
    for name, value in held.items():
        if value.shape != given[name].shape:
            raise ModelError(
                name,
                f"has shape {tuple(given[name].shape)} there and {tuple(value.shape)} in this run",
                way_out="resume with the run's own settings",
            )
        with torch.no_grad():
            value.copy_(given[name])
