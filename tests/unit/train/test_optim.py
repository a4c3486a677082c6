"""Optimizers against what their papers say, and their state against a checkpoint's needs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.core.errors import ModelError
from tuition.train.optim import AdamW, MuonAdamW, is_layer_matrix, make_optimizer, orthogonalize
from tuition.train.settings import OptimizerSettings


def parameters() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shapes = {
        "embedding.weight": (12, 6),
        "layers.0.mlp.up.weight": (10, 6),
        "layers.0.mlp.down.weight": (6, 10),
        "layers.0.mlp_norm.weight": (6,),
    }
    return {name: torch.randn(shape, requires_grad=True) for name, shape in shapes.items()}


def give_gradients(named: dict[str, torch.Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for value in named.values():
        value.grad = torch.randn(value.shape, generator=generator)


def test_adamw_is_torchs() -> None:
    """Ten steps, with decay on the matrices of the layers only."""
    chosen = OptimizerSettings(kind="adamw", lr=0.01, weight_decay=0.1)
    ours, theirs = parameters(), parameters()
    groups = [
        {"params": [v for n, v in theirs.items() if is_layer_matrix(n, v)], "weight_decay": 0.1},
        {"params": [v for n, v in theirs.items() if not is_layer_matrix(n, v)], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.005, betas=(0.9, 0.95), eps=1e-8)
    optimizer = AdamW(ours, chosen)
    for step in range(10):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizer.step(0.5)
        reference.step()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(2, 24), st.integers(0, 40), st.integers(0, 1000))
def test_orthogonalize_brings_singular_values_near_one(count: int, rows: int, wider: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrices = torch.randn(count, rows, rows + wider, generator=generator)
    values = torch.linalg.svdvals(orthogonalize(matrices))
    before = torch.linalg.svdvals(matrices)
    clear = before > 0.05 * before[:, :1]  # very small ones need more rounds than an update is worth
    assert values.max() < 1.3
    assert values[clear].min() > 0.4


def test_muon_turns_matrices_and_adamw_the_rest() -> None:
    named = parameters()
    before = {name: value.detach().clone() for name, value in named.items()}
    optimizer = MuonAdamW(named, OptimizerSettings(lr=0.01, muon_lr=0.1, weight_decay=0.0), torch.float32)
    give_gradients(named, 1)
    optimizer.step(1.0)
    change = before["layers.0.mlp.up.weight"] - named["layers.0.mlp.up.weight"].detach()
    values = torch.linalg.svdvals(change) / (0.1 * (10 / 6) ** 0.5)
    assert ((values > 0.6) & (values < 1.3)).all()
    first = before["embedding.weight"] - named["embedding.weight"].detach()
    torch.testing.assert_close(
        first.abs(), torch.full_like(first, 0.01), rtol=1e-3, atol=0
    )  # Adam's first step


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_goes_out_and_comes_back_to_the_same_bits(kind) -> None:
    chosen = OptimizerSettings(kind=kind)
    one, two = parameters(), parameters()
    first, second = (make_optimizer(named.items(), chosen, torch.bfloat16) for named in (one, two))
    for step in range(3):
        give_gradients(one, step)
        first.step(1.0)
    second.load({name: value.clone() for name, value in first.tensors().items()})
    for name in two:
        two[name].data.copy_(one[name].data)
    for named, optimizer in ((one, first), (two, second)):
        give_gradients(named, 9)
        optimizer.step(0.7)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_state_of_other_shapes_is_refused() -> None:
    optimizer = make_optimizer(parameters().items(), OptimizerSettings(), torch.float32)
    good = {name: value.clone() for name, value in optimizer.tensors().items()}
    with pytest.raises(ModelError, match="not in both"):
        optimizer.load({name: value for name, value in good.items() if name != "count"})
    good["first.embedding.weight"] = torch.zeros(1, 2)
    with pytest.raises(ModelError, match=r"\(1, 2\)"):
        optimizer.load(good)
