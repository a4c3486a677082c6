"""The loss of fine-tuning is the mean over all taught tokens of a step, however these are packed."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.data.packing import LessonBatch, LessonLoader, lesson_batch
from tuition.model.context import DenseContext
from tuition.model.decoder import Decoder
from tuition.spec.shape import ModelShape
from tuition.tokenizer.taught import Taught
from tuition.train.recipes.finetune import lesson_loss

Pack = Callable[[Sequence[Taught]], list[LessonBatch]]

TOLERANCE = 1e-5
"""Relative, float32: only the order of sums differs."""


def lessons(shape: ModelShape, count: int = 40) -> list[Taught]:
    """Conversations of 2 to 60 tokens with several taught stretches."""
    draw = np.random.default_rng(7)
    found = []
    for _ in range(count):
        length = int(draw.integers(2, 60))
        taught = draw.random(length) < 0.4
        taught[-1] = True
        ids = draw.integers(0, shape.vocab_size, length).astype(np.int32)
        found.append(Taught(ids, taught, np.array([length], dtype=np.int32)))
    return found


@torch.no_grad()
def one_by_one(model: Decoder, examples: Sequence[Taught]) -> float:
    """Mean nats over the taught tokens, each example alone in a pass of its own, without our loss."""
    nats, number = 0.0, 0
    for example in examples:
        ids = torch.from_numpy(example.ids.astype(np.int64))
        hidden = model(ids[None, :-1], DenseContext.of_length(len(ids) - 1))[0]
        losses = F.cross_entropy(hidden @ model.head_weight.T, ids[1:], reduction="none")
        taught = torch.from_numpy(example.taught[1:])
        nats += float(losses[taught].double().sum())
        number += int(taught.sum())
    return nats / number


def mean_loss(model: Decoder, batches: Sequence[LessonBatch]) -> Tensor:
    """As the training step computes it over its microbatches and threads."""
    scale = 1.0 / sum(batch.num_units for batch in batches)
    return torch.stack([lesson_loss(model, batch, scale) for batch in batches]).sum()


def test_a_shared_beginning_is_computed_once(tiny_shape: ModelShape) -> None:
    """40 examples, of which a third have a prompt of 20 tokens and a third another of 35."""
    plain = lessons(tiny_shape)
    alone, shared = lesson_batch(plain), lesson_batch(with_system_prompts(plain, tiny_shape))
    assert shared.token_ids.numel() == alone.token_ids.numel() + 20 + 35
    assert sum(shared.lengths) == alone.token_ids.numel() + 14 * 20 + 13 * 35
    assert shared.num_units == alone.num_units


def epoch(examples: Sequence[Taught], batch_tokens: int, seed: int) -> list[LessonBatch]:
    loader = LessonLoader(examples, batch_tokens, seed)
    return [loader.batch(step) for step in range(loader.batches_per_epoch)]


PACKINGS: dict[str, Pack] = {
    "one batch": lambda examples: [lesson_batch(examples)],
    "one batch, backwards": lambda examples: [lesson_batch(examples[::-1])],
    "one example a batch": lambda examples: [lesson_batch([example]) for example in examples],
    "microbatches of 100 tokens": lambda examples: epoch(examples, 100, seed=1),
    "microbatches of 300 tokens": lambda examples: epoch(examples, 300, seed=2),
    "two threads": lambda examples: lesson_batch(examples).shares(2),
    "seven threads": lambda examples: lesson_batch(examples).shares(7),
    "microbatches and threads": lambda examples: [s for b in epoch(examples, 300, 3) for s in b.shares(3)],
}


def with_system_prompts(examples: Sequence[Taught], shape: ModelShape) -> list[Taught]:
    """One of two untaught beginnings before most of them, so that batches hold shared ones."""
    draw = np.random.default_rng(8)
    prompts = [draw.integers(0, shape.vocab_size, length).astype(np.int32) for length in (20, 35)]
    prompts.append(prompts[1][:0])
    found = []
    for index, example in enumerate(examples):
        prompt = prompts[index % 3]
        taught = np.concatenate((np.zeros(len(prompt) + 1, dtype=bool), example.taught[1:]))
        found.append(
            Taught(np.concatenate((prompt, example.ids)), taught, example.turns + np.int32(len(prompt)))
        )
    return found


@pytest.mark.parametrize("window", [None, 8, 30])
@pytest.mark.parametrize("name", PACKINGS)
def test_packing_changes_neither_loss_nor_gradient(
    tiny_shape: ModelShape, name: str, window: int | None
) -> None:
    """Also where layers see a window of the keys, and where examples share a beginning."""
    shape = replace(tiny_shape, sliding_window=window, window_layers=(0,)) if window else tiny_shape
    torch.manual_seed(0)
    model, examples = Decoder(shape).initialize(), with_system_prompts(lessons(shape), shape)
    parameters = list(model.parameters())
    expected = one_by_one(model, examples)
    loss = mean_loss(model, PACKINGS[name](examples))
    assert abs(float(loss.detach()) - expected) <= TOLERANCE * expected
    plain = torch.autograd.grad(mean_loss(model, [lesson_batch(examples)]), parameters)
    packed = torch.autograd.grad(loss, parameters)
    for one, other in zip(plain, packed, strict=True):
        assert float((one - other).norm()) <= TOLERANCE * float(one.norm())


def test_the_loss_of_an_example_does_not_depend_on_its_neighbours(tiny_shape: ModelShape) -> None:
    """What stands before it in a batch is not seen, whatever it is."""
    model, examples = Decoder(tiny_shape).initialize(), lessons(tiny_shape)
    for before in (examples[1:3], examples[5:9]):
        together = lesson_loss(model, lesson_batch([*before, examples[0]]), 1.0)
        apart = lesson_loss(model, lesson_batch(before), 1.0) + lesson_loss(
            model, lesson_batch(examples[:1]), 1.0
        )
        torch.testing.assert_close(together, apart, rtol=TOLERANCE, atol=0)
