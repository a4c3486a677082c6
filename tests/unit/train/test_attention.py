"""The context for short rows computes what the decoder's own does."""

import pytest
import torch

from tuition.model.context import DenseContext
from tuition.train.attention import ShortRowContext, training_context

BATCH, SEQ, HEAD_DIM = 3, 17, 8


def heads(num: int, seed: int) -> torch.Tensor:
    return torch.randn(
        BATCH, SEQ, num, HEAD_DIM, generator=torch.Generator().manual_seed(seed), requires_grad=True
    )


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("has_documents", [False, True])
def test_values_and_gradients_agree(window: int | None, num_kv_heads: int, has_documents: bool) -> None:
    """float32: only the order of sums differs."""
    segments = None
    if has_documents:
        segments = (torch.arange(SEQ)[None] > torch.tensor([[4], [9], [99]])).long()
    positions = torch.arange(SEQ)[None].expand(BATCH, SEQ)
    found = []
    for kind in (DenseContext, ShortRowContext):
        query, key, value = heads(4, 0), heads(num_kv_heads, 1), heads(num_kv_heads, 2)
        result = kind(positions, segments).attend(0, query, key, value, window)
        result.square().sum().backward()
        found.append((result, query.grad, key.grad, value.grad))
    for dense, short in zip(*found, strict=True):
        torch.testing.assert_close(dense, short, rtol=1e-4, atol=1e-5)


def test_long_rows_take_the_fused_kernel() -> None:
    assert type(training_context(torch.arange(512)[None])) is ShortRowContext
    assert type(training_context(torch.arange(513)[None])) is DenseContext
