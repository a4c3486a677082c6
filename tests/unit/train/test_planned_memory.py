"""What plan/memory counts for a step is what the step holds, and its numbers are those of train."""

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tuition.model.formats import BITS
from tuition.plan import memory
from tuition.spec.shape import ModelShape
from tuition.train import losses


class Peak(TorchDispatchMode):
    """The most bytes that were alive at once in tensors made under it."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self._sizes:
                storage = tensor.untyped_storage()
                self._sizes[storage.data_ptr()] = storage.nbytes()
                self._now += storage.nbytes()
                self.bytes = max(self.bytes, self._now)
                weakref.finalize(storage, self._drop, storage.data_ptr())
        return made

    def _drop(self, place: int) -> None:
        self._now -= self._sizes.pop(place)


def test_the_plan_knows_how_much_is_computed_at_once() -> None:
    """It holds no torch, and so it cannot ask."""
    assert memory.CHUNK_ROWS == losses.CHUNK_ROWS
    assert {name: memory.WEIGHT_BITS[name] for name in BITS} == BITS


@pytest.mark.parametrize("is_autocast", [False, True], ids=["float32", "bfloat16"])
def test_the_loss_holds_what_is_planned_for_its_logits(is_autocast: bool) -> None:
    """Within a tenth of it: the rows' own gradients and the cast head are small beside the vocabulary."""
    shape = ModelShape(16_384, 32, 1, 1, 1, 32, 32, 1_024)
    hidden = torch.randn(3 * memory.CHUNK_ROWS, shape.hidden_size, requires_grad=True)
    head = torch.randn(shape.vocab_size, shape.hidden_size, requires_grad=True)
    targets = torch.randint(0, shape.vocab_size, (len(hidden),))
    with Peak() as peak, torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        loss = losses.linear_cross_entropy(hidden, head, targets)
        torch.autograd.grad(loss, [hidden, head])
    gradient = 4 * shape.vocab_size * shape.hidden_size  # counted with the states
    planned = memory.logit_bytes(shape, len(hidden), members=1) + gradient
    assert planned * (0.9 if is_autocast else 0.75) < peak.bytes < planned * 1.1
