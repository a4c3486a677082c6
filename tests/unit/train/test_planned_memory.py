"""What plan/memory counts for a step is what the step holds, and its numbers are those of train."""

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tuition.data.packing import lesson_batch
from tuition.model.decoder import Decoder
from tuition.model.formats import BITS
from tuition.plan import memory
from tuition.spec.shape import ModelShape
from tuition.tokenizer.taught import Taught
from tuition.train import losses
from tuition.train.recipes.finetune import lesson_loss


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


def test_a_step_holds_what_is_planned_with_and_without_recomputing() -> None:
    """Never more than that, and with recomputing far less than without."""
    shape = ModelShape(512, 64, 12, 4, 2, 16, 96, 512)
    lengths = (120, 100, 90, 140, 62)
    lessons = [
        Taught(np.arange(length, dtype=np.int32), np.ones(length, bool), np.array([length], np.int32))
        for length in lengths
    ]
    batch = lesson_batch(lessons)
    found = {}
    for recomputes in (False, True):
        torch.manual_seed(0)
        model = Decoder(shape).initialize()
        model.recomputes = recomputes
        with Peak() as peak:
            torch.autograd.grad(lesson_loss(model, batch, 1.0), list(model.parameters()))
        planned = memory.tuning_memory(
            shape, memory.TunedWeights(0, 0), sum(lengths), max(lengths), 1, recomputes=recomputes
        ).total
        gradients = 4 * sum(parameter.numel() for parameter in model.parameters())
        found[recomputes] = peak.bytes - gradients
        assert 0.3 * planned < found[recomputes] < planned
    assert found[True] < 0.4 * found[False]
