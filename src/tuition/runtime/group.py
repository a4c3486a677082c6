"""Several processes that train one model together, and the single process as a group of one.

In: numbers and tensors of this member.  Out: their sums over all members, and the decisions of member 0.
Everything in a training step on which members must agree goes through here: the count that the loss is
divided by, the gradients, whether a step is skipped, and when the run ends. So there is one loop for one
process and for many, and a single process pays nothing for it.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Group(Protocol):
    """The members that train together."""

    rank: int
    """Of this member, from 0."""
    size: int
    """Number of members."""

    def sum(self, number: float) -> float:
        """The sum of every member's number."""
        ...

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the members; all members give the same shapes."""
        ...

    def decide(self, *numbers: float) -> tuple[float, ...]:
        """The numbers of member 0, for every member."""
        ...


class SingleProcess:
    """A group of one: its own numbers are the sums and the decisions."""

    rank, size = 0, 1

    def sum(self, number: float) -> float:
        return number

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        pass

    def decide(self, *numbers: float) -> tuple[float, ...]:
        return numbers


ALONE = SingleProcess()


class ProcessGroup:
    """The default group of torch.distributed, which the caller has initialized (`init_process_group`)."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._device = device

    def sum(self, number: float) -> float:
        held = torch.tensor(number, dtype=torch.float64, device=self._device)
        dist.all_reduce(held)
        return float(held)

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Tensors of one dtype travel as one buffer: one message costs less than one for each tensor."""
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        for alike in by_dtype.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in alike])
            dist.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in alike])
            for tensor, part in zip(alike, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def decide(self, *numbers: float) -> tuple[float, ...]:
        held = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        dist.broadcast(held, src=0)
        return tuple(held.tolist())
