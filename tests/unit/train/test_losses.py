"""The loss: one operation over chunks, equal to the textbook's two."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from tuition.core.errors import ShapeError
from tuition.data.rows import IGNORED
from tuition.train import losses
from tuition.train.losses import linear_cross_entropy, token_losses


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK_ROWS", 7)


def parts(rows: int = 20, ignored: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(2, rows // 2, 8, requires_grad=True)
    head = torch.randn(11, 8, requires_grad=True)
    targets = torch.randint(0, 11, (2, rows // 2))
    if ignored:
        targets[0, :3] = IGNORED
    return hidden, head, targets


def test_value_and_gradients_are_those_of_the_textbook() -> None:
    hidden, head, targets = parts()
    linear_cross_entropy(hidden, head, targets, scale=0.25).backward()
    ours = hidden.grad, head.grad
    hidden.grad = head.grad = None
    loss = F.cross_entropy((hidden @ head.t()).flatten(0, 1), targets.flatten(), reduction="sum") * 0.25
    loss.backward()
    torch.testing.assert_close(linear_cross_entropy(hidden, head, targets, 0.25), loss)
    torch.testing.assert_close(ours[0], hidden.grad)
    torch.testing.assert_close(ours[1], head.grad)


def test_a_frozen_head_costs_no_gradient() -> None:
    """Two products instead of three, and the same gradient of the rows."""
    hidden, head, targets = parts(ignored=False)
    found = []
    for weight in (head, head.detach()):
        with FlopCounterMode(display=False) as counter:
            (gradient,) = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets), hidden)
        found.append((gradient, counter.get_total_flops()))
    (trained, all_flops), (frozen, flops) = found
    assert torch.equal(trained, frozen)
    assert 3 * flops == 2 * all_flops


def test_an_ignored_target_teaches_nothing() -> None:
    hidden, head, targets = parts()
    linear_cross_entropy(hidden, head, targets).backward()
    assert hidden.grad is not None
    assert hidden.grad[0, :3].abs().sum() == 0
    assert hidden.grad[1].abs().sum() > 0


def test_token_losses_sum_to_the_loss_and_are_zero_where_ignored() -> None:
    hidden, head, targets = parts()
    each = token_losses(hidden, head, targets)
    assert each.shape == targets.shape
    assert (each[0, :3] == 0).all()
    torch.testing.assert_close(each.sum(), linear_cross_entropy(hidden, head, targets).detach())


def test_under_autocast_products_are_bfloat16_and_gradients_keep_their_dtype() -> None:
    hidden, head, targets = parts()
    exact = linear_cross_entropy(hidden, head, targets, 1 / 20).detach()
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, head, targets, 1 / 20)
    loss.backward()
    assert loss.dtype == torch.float32
    assert head.grad is not None
    assert head.grad.dtype == torch.float32
    assert loss != exact  # it did use bfloat16
    torch.testing.assert_close(loss.detach(), exact, rtol=0.02, atol=0)  # bfloat16 has 8 bits


def test_shapes_that_do_not_fit_are_refused() -> None:
    hidden, head, targets = parts()
    with pytest.raises(ShapeError):
        linear_cross_entropy(hidden, head[:, :4], targets)
    with pytest.raises(ShapeError):
        linear_cross_entropy(hidden, head, targets[:, :4])
