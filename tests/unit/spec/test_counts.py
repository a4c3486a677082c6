"""Counts against published figures, and the laws that they obey."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuition.spec.counts import (
    attention_flops,
    decode_bytes,
    forward_flops,
    kv_bytes_per_token,
    kv_bytes_read,
    layer_matrix_parameters,
    num_active_parameters,
    num_parameters,
    training_flops,
    visible_keys,
)
from tuition.spec.shape import ModelShape

LLAMA_405B = ModelShape(128_256, 16_384, 126, 128, 8, 128, 53_248, 131_072, tied_head=False)
LLAMA_8B = ModelShape(128_256, 4_096, 32, 32, 8, 128, 14_336, 131_072, tied_head=False)
QWEN_72B = ModelShape(152_064, 8_192, 80, 64, 8, 128, 29_568, 32_768, tied_head=False, qkv_bias=True)
QWEN3_06B = ModelShape(151_936, 1_024, 28, 16, 8, 128, 3_072, 40_960, qk_norm=True)
SMOLLM2 = ModelShape(49_152, 576, 30, 9, 3, 64, 1_536, 8_192)
PUBLISHED_KV = [("kv_llama31_405b", LLAMA_405B, 516_096), ("kv_qwen25_72b", QWEN_72B, 327_680),
                ("kv_llama31_8b", LLAMA_8B, 131_072)]  # fmt: skip
PUBLISHED_PARAMETERS = [(SMOLLM2, 134_515_008), (LLAMA_8B, 8_030_261_248), (LLAMA_405B, 405_853_388_800),
                        (QWEN_72B, 72_706_203_648), (QWEN3_06B, 596_049_920)]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "expected"), PUBLISHED_KV)
def test_bytes_of_cache_per_token_are_the_published_ones(name: str, shape: ModelShape, expected: int) -> None:
    assert kv_bytes_per_token(shape) == expected


@pytest.mark.parametrize(("shape", "expected"), PUBLISHED_PARAMETERS)
def test_parameters_are_the_published_ones(shape: ModelShape, expected: int) -> None:
    """Source: the `total` in the safetensors metadata of each model on its page."""
    assert num_parameters(shape) == expected


def test_active_parameters_leave_out_the_lookup_and_keep_the_head() -> None:
    assert num_active_parameters(SMOLLM2) == num_parameters(SMOLLM2)  # tied: the head is the embedding
    assert num_active_parameters(LLAMA_8B) == num_parameters(LLAMA_8B) - 128_256 * 4_096


def test_training_flops_are_six_n_and_causal_attention_for_long_rows() -> None:
    """ECONOMICS: 6 N + 6 L d S per token; the norms in N and the diagonal are what is left."""
    seq_len, tokens = 4_096, 4_096 * 8
    rule = tokens * (6 * num_active_parameters(LLAMA_8B) + 6 * 32 * 4_096 * seq_len)
    assert training_flops(LLAMA_8B, tokens, seq_len) == pytest.approx(rule, rel=1e-3)


shapes = st.builds(
    ModelShape,
    vocab_size=st.integers(1, 500),
    hidden_size=st.integers(1, 64),
    num_layers=st.integers(1, 5),
    num_heads=st.sampled_from([4, 8]),
    num_kv_heads=st.sampled_from([1, 2, 4]),
    head_dim=st.sampled_from([2, 8, 16]),
    mlp_size=st.integers(1, 64),
    context_length=st.just(128),
    tied_head=st.booleans(),
    sliding_window=st.integers(1, 40),
    window_layers=st.sampled_from([(), (0,)]),
)
sizes = st.integers(0, 60)


@given(sizes, sizes, st.none() | st.integers(1, 70))
def test_visible_keys_are_those_one_would_count_by_hand(
    tokens: int, context: int, window: int | None
) -> None:
    positions = range(context, context + tokens)
    by_hand = sum(min(position + 1, window or position + 1) for position in positions)
    assert visible_keys(tokens, context, window) == by_hand


@given(shapes, sizes, sizes, sizes)
def test_splitting_a_prefill_changes_no_count(
    shape: ModelShape, first: int, second: int, context: int
) -> None:
    whole = forward_flops(shape, first + second, context)
    assert whole == forward_flops(shape, first, context) + forward_flops(shape, second, context + first)


@given(shapes, sizes, st.integers(1, 60))
def test_training_flops_add_up_over_rows(shape: ModelShape, rows: int, seq_len: int) -> None:
    assert training_flops(shape, rows * seq_len, seq_len) == rows * training_flops(shape, seq_len, seq_len)


@given(shapes, st.lists(sizes, max_size=6), st.lists(sizes, max_size=6))
def test_a_batch_reads_the_weights_once_and_every_cache(
    shape: ModelShape, some: list[int], others: list[int]
) -> None:
    together = decode_bytes(shape, [*some, *others])
    assert together == decode_bytes(shape, some) + decode_bytes(shape, others) - decode_bytes(shape, [])
    assert decode_bytes(shape, []) == 2 * num_active_parameters(shape)


@given(shapes, sizes)
def test_without_windows_a_token_reads_the_whole_cache(shape: ModelShape, context: int) -> None:
    read = kv_bytes_read(shape, 1, context)
    whole = (context + 1) * kv_bytes_per_token(shape)
    assert read == whole if not shape.window_layers else read <= whole


@given(shapes, sizes, sizes)
def test_logits_that_are_not_wanted_cost_nothing(shape: ModelShape, tokens: int, context: int) -> None:
    none, every = forward_flops(shape, tokens, context, 0), forward_flops(shape, tokens, context)
    assert every - none == 2 * tokens * shape.vocab_size * shape.hidden_size
    layers = 2 * shape.num_layers * layer_matrix_parameters(shape) * tokens
    assert none - attention_flops(shape, tokens, context) == layers
