"""All state that changes during training, and how it is saved to and loaded from a checkpoint.

In: any model and the settings, or a checkpoint.  Out: named tensors and a JSON state; with equal settings,
threads and machine, a run that continues from them gives the same bits as one that was never stopped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tuition.runtime.device import Precision
from tuition.runtime.group import ALONE, Group
from tuition.runtime.seed import random_state, restore_random_state
from tuition.runtime.thread_pool import NO_POOL, ThreadPool
from tuition.train.guard import Guard
from tuition.train.optim import Optimizer, make_optimizer, take_tensors
from tuition.train.settings import TrainSettings


@dataclass
class TrainState:
    """Owner of model, optimizer and position in the data; saves the process' random numbers with them."""

    model: nn.Module
    optimizer: Optimizer
    guard: Guard
    device: torch.device
    precision: Precision
    step: int = 0
    """Optimizer steps done, skipped ones included; also the position of the loader."""
    num_units: int = 0
    """Units seen, of all members of the group: see `Batch.num_units`."""
    pool: ThreadPool = NO_POOL
    """Rows of a batch, and matrices of the optimizer, are split across its threads."""
    group: Group = ALONE
    """The processes that train this model together."""

    @classmethod
    def fresh(
        cls,
        model: nn.Module,
        settings: TrainSettings,
        device: torch.device,
        precision: Precision,
        pool: ThreadPool = NO_POOL,
        group: Group = ALONE,
    ) -> "TrainState":
        """A state at step 0 around a model whose first weights are drawn already."""
        optimizer = make_optimizer(model.named_parameters(), settings.optimizer, precision.dtype)
        return cls(model, optimizer, Guard(settings.guard), device, precision, pool=pool, group=group)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name: `model/`, `optimizer/`, `random/`. Not copies."""
        named = {f"model/{name}": value for name, value in changing(self.model).items()}
        named |= {f"optimizer/{name}": value for name, value in self.optimizer.tensors().items()}
        return named | {f"random/{name}": value for name, value in random_state(self.device).items()}

    def values(self) -> dict[str, Any]:
        """Everything else, as plain JSON values."""
        return {"step": self.step, "num_units": self.num_units, "guard": self.guard.state()}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go back to a saved state. Raises: ModelError when names or shapes do not fit."""
        take_tensors(changing(self.model), under("model", tensors))
        self.optimizer.load(under("optimizer", tensors))
        restore_random_state(under("random", tensors), self.device)
        self.step, self.num_units = values["step"], values["num_units"]
        self.guard.load(values["guard"])


def changing(model: nn.Module) -> dict[str, Tensor]:
    """The part of a model that training changes: trainable parameters and persistent buffers. Frozen
    parameters are loaded from their source again."""
    saved = model.state_dict(keep_vars=True).keys()
    buffers = {name: value for name, value in model.named_buffers() if name in saved}
    return {name: value for name, value in model.named_parameters() if value.requires_grad} | buffers


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix/`, without it."""
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
