"""One optimizer step, and the loop around it, on a real tiny decoder."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from tuition.core.records import StepRecord, Window
from tuition.data.loader import Batch
from tuition.model.decoder import Decoder
from tuition.runtime.device import Precision, choose_precision
from tuition.runtime.thread_pool import ThreadPool
from tuition.spec.counts import training_flops
from tuition.spec.shape import ModelShape
from tuition.train.guard import DivergedError
from tuition.train.loop import fit
from tuition.train.recipes.pretrain import PretrainTask, next_token_loss
from tuition.train.recipes.pretrain_settings import PretrainSettings
from tuition.train.recipes.pretrain_sizes import complete
from tuition.train.schedule import StepSpan
from tuition.train.settings import GuardSettings, OptimizerSettings, TrainSettings
from tuition.train.state import TrainState
from tuition.train.step import train_step

SHAPE = ModelShape(32, 16, 2, 2, 1, 8, 24, 16)
SETTINGS = TrainSettings(steps=12, optimizer=OptimizerSettings(lr=1e-2))
FLOAT32 = Precision(torch.float32, "a test")


Loss = Callable[[Decoder, Batch, float], torch.Tensor]


def fresh(settings: TrainSettings = SETTINGS) -> TrainState:
    torch.manual_seed(0)
    return TrainState.fresh(Decoder(SHAPE).initialize(), settings, torch.device("cpu"), FLOAT32)


def batch_of(step: int, rows: int = 4) -> Batch:
    """Rows that repeat a pattern, so that there is something to learn."""
    generator = torch.Generator().manual_seed(step)
    start = torch.randint(0, 32, (rows, 1), generator=generator)
    ids = (start + torch.arange(17)[None] * 3) % 32
    positions = torch.arange(16)[None].expand(rows, 16)
    return Batch(ids[:, :-1], ids[:, 1:].contiguous(), positions, None, 16 * rows)


class Pattern(PretrainTask):
    """A task whose batches are drawn, around the model of a state."""

    def __init__(self, state: TrainState, loss_fn: Loss = next_token_loss) -> None:
        self.sizes = complete(PretrainSettings(seq_len=16))
        assert isinstance(state.model, Decoder)
        self.model, self.loss_fn = state.model, loss_fn

    def batch(self, step: int) -> Batch:
        return batch_of(step)

    def loss(self, batch: Batch, scale: float) -> torch.Tensor:
        return self.loss_fn(self.model, batch, scale)


def train(
    state: TrainState, settings: TrainSettings, loss_fn: Loss = next_token_loss
) -> Iterator[StepRecord]:
    return fit(state, Pattern(state, loss_fn), settings, StepSpan(settings.steps or 0), Clock())


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def start(self) -> int:
        return self.now

    def stop(self, start_ns: int) -> Window:
        self.now += 1000
        return Window(start_ns, 1000, None, None, 5)


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in state.model.named_parameters()}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_pattern_is_learned(kind) -> None:
    settings = replace(SETTINGS, steps=60, optimizer=OptimizerSettings(kind=kind, lr=1e-2))
    records = list(train(fresh(settings), settings))
    assert records[0].loss == pytest.approx(math.log(32), rel=0.05)  # knows nothing yet
    assert records[-1].loss < 1.0


def test_records_say_what_happened() -> None:
    records = list(train(fresh(), SETTINGS))
    assert [record.step for record in records] == list(range(1, 13))
    assert {record.num_units for record in records} == {64}
    assert {record.flops for record in records} == {training_flops(SHAPE, 64, 16)}
    assert [record.window.wall_ns for record in records] == [1000] * 12
    assert records[-1].progress == 1.0
    assert all(record.grad_norm > 0 and record.lr > 0 for record in records)


def test_accumulated_microbatches_are_one_large_batch() -> None:
    """float32: only the order of sums differs."""
    whole, parts = fresh(), fresh()
    batch = batch_of(0)
    halves = [
        Batch(batch.token_ids[part], batch.targets[part], batch.positions[part], None, 32)
        for part in (slice(0, 2), slice(2, 4))
    ]
    one = train_step(whole, [batch], Pattern(whole).loss, 1.0, 1.0)
    two = train_step(parts, halves, Pattern(parts).loss, 1.0, 1.0)
    assert two.loss == pytest.approx(one.loss, rel=1e-5)
    assert two.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
    assert two.num_units == one.num_units == 64
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=1e-3, atol=1e-4)


def test_a_pool_teaches_what_one_teaches() -> None:
    """float32: only the order of sums differs; and a pool gives the same bits every time."""
    states = [
        TrainState.fresh(Decoder(SHAPE).initialize(), SETTINGS, torch.device("cpu"), FLOAT32, pool)
        for pool in (ThreadPool(1), ThreadPool(3), ThreadPool(3))
    ]
    for state in states:
        torch.manual_seed(0)
        state.model.initialize()
        outcomes = [train_step(state, [batch_of(step)], Pattern(state).loss, 1.0, 1.0) for step in range(3)]
        assert outcomes[0].loss == pytest.approx(math.log(32), rel=0.05)
        assert outcomes[-1].num_units == 64
    alone, pool, again = (weights(state) for state in states)
    for name, value in alone.items():
        torch.testing.assert_close(pool[name], value, rtol=1e-3, atol=1e-4)
        assert torch.equal(pool[name], again[name])


def poisoned_loss(steps: set[int], kind: str):
    """Ruins the loss, or only its gradient, of some calls."""
    calls = 0

    def loss(model: Decoder, batch: Batch, scale: float) -> torch.Tensor:
        nonlocal calls
        calls += 1
        value = next_token_loss(model, batch, scale)
        if calls not in steps:
            return value
        if kind == "nan":
            return value * math.nan
        return value * 1e4 if kind == "loss" else value + (value - value.detach()) * 1e4

    return loss


@pytest.mark.parametrize("kind", ["nan", "loss", "gradient"])
def test_a_poisoned_step_changes_no_weight_and_is_recorded(kind: str) -> None:
    settings = replace(SETTINGS, steps=30, guard=GuardSettings(history=16))
    state, before, records = fresh(settings), {}, []
    for record in train(state, settings, poisoned_loss({20}, kind)):
        records.append(record)
        if record.step == 19:
            before = weights(state)
        if record.step == 20:
            assert all(torch.equal(before[name], value) for name, value in weights(state).items())
    assert [step for step, _ in state.guard.skipped] == [20]
    assert records[19].lr == 0.0
    assert records[-1].loss < records[0].loss


def test_three_poisoned_steps_stop_the_run_and_say_why() -> None:
    state = fresh()
    with pytest.raises(DivergedError, match="3 steps within 100 were skipped"):
        list(train(state, SETTINGS, poisoned_loss({3, 5, 7}, "nan")))
    assert state.step == 7
    assert all(value.isfinite().all() for value in weights(state).values())


def test_ten_and_ten_steps_are_twenty_to_the_bit() -> None:
    """T1 without a process in between: state goes out as tensors and JSON, and comes back into a fresh
    one."""
    settings = replace(SETTINGS, steps=20)
    straight = fresh(settings)
    losses = [r.loss for r in train(straight, settings)]
    first, again = fresh(settings), []
    for record in train(first, settings):
        again.append(record.loss)
        if record.step == 10:
            break
    tensors = {name: value.detach().clone() for name, value in first.tensors().items()}
    second = fresh(settings)
    torch.manual_seed(77)
    second.load(tensors, first.values())
    again += [r.loss for r in train(second, settings)]
    assert again == losses
    ends = straight.tensors(), second.tensors()
    assert all(
        torch.equal(ends[0][name], ends[1][name]) for name in ends[0] if not name.startswith("random/")
    )


@pytest.mark.gpu
def test_a_gpu_learns_the_pattern_in_bfloat16() -> None:
    settings = replace(SETTINGS, steps=60)
    torch.manual_seed(0)
    precision = choose_precision("bfloat16", torch.device("cuda"))
    model = Decoder(SHAPE).initialize().cuda()
    state = TrainState.fresh(model, settings, torch.device("cuda"), precision)
    records = list(train(state, settings))
    assert records[-1].loss < 1.0
    other = TrainState.fresh(Decoder(SHAPE).initialize().cuda(), settings, torch.device("cuda"), precision)
    other.load(
        {name: value.detach().cpu().clone() for name, value in state.tensors().items()}, state.values()
    )
    assert all(torch.equal(value, other.tensors()[name]) for name, value in state.tensors().items())
