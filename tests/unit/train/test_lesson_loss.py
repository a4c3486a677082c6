"""The loss is the mean over all taught tokens of a step, however examples are packed, split or threaded."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from tuition.data.packing import Group, lesson_batch
from tuition.model.context import DenseContext
from tuition.model.decoder import Decoder
from tuition.runtime.device import Precision
from tuition.runtime.thread_pool import NO_POOL, ThreadPool
from tuition.tokenizer.taught import Taught
from tuition.train.attention import LONGEST_PLAIN_ROW, PackedContext
from tuition.train.losses import linear_cross_entropy
from tuition.train.recipes.finetune import lesson_loss, lesson_nats, num_taught
from tuition.train.settings import OptimizerSettings, TrainSettings
from tuition.train.state import TrainState
from tuition.train.step import forward_backward
from unit.train.base_home import SHAPE

PRECISION = Precision(torch.float32, "a test")
REL = 1e-5


def examples() -> list[Taught]:
    drawn = np.random.default_rng(0)
    found = []
    for length in (5, 9, 17, 30, 31, 44, 60, 12, 7, 25):
        ids = drawn.integers(0, SHAPE.vocab_size, length).astype(np.int32)
        taught = drawn.random(length) < 0.4
        taught[-1] = True
        found.append(Taught(ids, taught, np.array([length], dtype=np.int32)))
    return found


def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(SHAPE).initialize(std=0.2)


def one_by_one(model: Decoder, sequences: Sequence[Taught]) -> tuple[float, dict[str, Tensor]]:
    """The reference: each example alone in its row, all logits computed, in float64."""
    wide = Decoder(SHAPE).double()
    wide.load_state_dict(model.state_dict())
    total = torch.zeros((), dtype=torch.float64)
    for sequence in sequences:
        ids = torch.from_numpy(sequence.ids.astype(np.int64))[None]
        logits = wide.logits(wide(ids[:, :-1], DenseContext.of_length(ids.shape[1] - 1)))[0]
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        total = total + losses[torch.from_numpy(sequence.taught[1:])].sum()
    mean = total / sum(map(num_taught, sequences))
    mean.backward()
    return float(mean.detach()), {
        name: value.grad.float() for name, value in wide.named_parameters() if value.grad is not None
    }


def stepped(
    model: Decoder, batches: Sequence[Sequence[Taught]], pool: ThreadPool = NO_POOL
) -> tuple[float, dict[str, Tensor]]:
    """As the loop computes it."""
    settings = TrainSettings(steps=1, optimizer=OptimizerSettings(kind="adamw"))
    state = TrainState.fresh(model, settings, torch.device("cpu"), PRECISION, pool)
    model.zero_grad(set_to_none=True)
    made = [lesson_batch(batch) for batch in batches]
    mean = forward_backward(
        state,
        made,
        lambda batch, scale: lesson_loss(model, batch, scale),
        sum(batch.num_units for batch in made),
    )
    return mean, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


WAYS = {
    "packed in one row": ([slice(0, 10)], 1),
    "two microbatches": ([slice(0, 3), slice(3, 10)], 1),
    "accumulated one by one": ([slice(index, index + 1) for index in range(10)], 1),
    "two threads": ([slice(0, 10)], 2),
    "three threads, two microbatches": ([slice(0, 6), slice(6, 10)], 3),
}


@pytest.mark.parametrize("name", WAYS)
def test_loss_and_gradients_are_those_of_each_example_alone(name: str) -> None:
    slices, threads = WAYS[name]
    model, sequences = decoder(), examples()
    wanted, wanted_gradients = one_by_one(model, sequences)
    pool = ThreadPool(threads, threads) if threads > 1 else NO_POOL
    found, gradients = stepped(model, [sequences[part] for part in slices], pool)
    assert found == pytest.approx(wanted, rel=REL)
    assert gradients.keys() == wanted_gradients.keys()
    for parameter, gradient in wanted_gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradients[parameter], gradient, rtol=0, atol=1e-4 * scale)  # float32 sums


def test_matrices_rounded_once_a_step_give_the_bits_of_autocast() -> None:
    """And the weights are whole again afterwards."""
    model, sequences = decoder(), examples()
    settings = TrainSettings(steps=1, optimizer=OptimizerSettings(kind="adamw"))
    state = TrainState.fresh(model, settings, torch.device("cpu"), Precision(torch.bfloat16, "a test"))
    batch = lesson_batch(sequences)
    loss = forward_backward(state, [batch], lambda batch, scale: lesson_loss(model, batch, scale), 1)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        wanted = lesson_loss(model, batch, 1.0)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(wanted, parameters)
    assert loss == float(wanted.detach())
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)


def test_nothing_leaks_from_one_example_to_the_next() -> None:
    """Other tokens in one example change no bit of the others' losses."""
    model, sequences = decoder(), examples()
    before = lesson_nats(model, sequences, PRECISION, NO_POOL)
    changed = [*sequences]
    changed[3] = Taught(changed[3].ids[::-1].copy(), changed[3].taught, changed[3].turns)
    after = lesson_nats(model, changed, PRECISION, NO_POOL)
    different = [index for index, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    assert different == [3]


def test_a_long_example_and_a_window_are_attended_to_alike() -> None:
    """Longer examples take the fused kernel; a window cuts what a token sees in each example."""
    torch.manual_seed(0)
    lengths = (LONGEST_PLAIN_ROW + 40, 30)
    query, key, value = (torch.randn(1, sum(lengths), heads, 8) for heads in (4, 2, 2))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    context = PackedContext(positions, [Group(0, (length,)) for length in lengths])
    for window in (None, 16):
        found = context.attend(0, query, key, value, window)
        segments = torch.repeat_interleave(torch.arange(2), torch.tensor(lengths))[None]
        wanted = DenseContext(positions, segments).attend(0, query, key, value, window)
        torch.testing.assert_close(
            found, wanted, rtol=0, atol=1e-5
        )  # float32: only the order of sums differs


def test_logits_are_computed_for_taught_tokens_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted at the softmax, whose rows are the logits."""
    rows: list[int] = []
    softmax = torch.softmax

    def counted(logits: Tensor, *args: object, **more: object) -> Tensor:
        if logits.shape[-1] == 97:
            rows.append(len(logits))
        return softmax(logits, *args, **more)

    monkeypatch.setattr(torch, "softmax", counted)
    targets = torch.full((1, 50), -100)
    targets[0, [3, 20, 49]] = 5
    hidden = torch.randn(1, 50, 8, requires_grad=True)
    linear_cross_entropy(hidden, torch.randn(97, 8), targets).backward()
    assert sum(rows) == 3


def test_a_batch_without_taught_tokens_has_no_loss() -> None:
    hidden = torch.randn(1, 6, 8, requires_grad=True)
    loss = linear_cross_entropy(hidden, torch.randn(97, 8), torch.full((1, 6), -100))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert hidden.grad is not None
    assert hidden.grad.abs().sum() == 0
