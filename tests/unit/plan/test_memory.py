"""Does it fit? Both sides of every refusal are shown, and what is granted fits."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.core.errors import CapacityError
from tuition.plan import memory as memory_module
from tuition.plan.memory import (
    CHUNK_ROWS,
    available_memory,
    block_bytes,
    cache_blocks,
    require,
    require_model,
    require_training,
    training_memory,
    weight_bytes,
)
from tuition.spec.counts import num_parameters
from tuition.spec.shape import ModelShape

SMOLLM2 = ModelShape(49_152, 576, 30, 9, 3, 64, 1_536, 8_192)
GIB = 2**30


def test_a_model_larger_than_memory_is_refused_with_both_numbers() -> None:
    with pytest.raises(CapacityError) as caught:
        require_model(SMOLLM2, "float32", free=500_000_000, name="smollm2")
    assert (caught.value.need, caught.value.free) == (4 * num_parameters(SMOLLM2), 500_000_000)
    assert "538,060,032" in str(caught.value)
    assert "500,000,000" in str(caught.value)
    require_model(SMOLLM2, "int8", free=500_000_000)


def test_fewer_bits_take_fewer_bytes() -> None:
    sizes = [weight_bytes(SMOLLM2, name) for name in ("float32", "bf16", "int8", "int4min", "int4")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 2 * sizes[1]


@settings(deadline=None)
@given(st.integers(0, 64 * GIB), st.integers(1, 64), st.sampled_from([8, 16, 64]))
def test_what_is_granted_fits_and_holds_at_least_one_context(free: int, batch: int, block_size: int) -> None:
    refusal = None
    try:
        plan = cache_blocks(
            SMOLLM2,
            block_size=block_size,
            max_batch=batch,
            token_budget=512,
            free=free,
            limit=max(1, free // 2),
        )
    except CapacityError as error:
        refusal = error
    if refusal is not None:
        assert refusal.need > refusal.free
        return
    assert plan.total <= free
    assert plan.num_blocks * block_size >= SMOLLM2.context_length
    assert plan.num_blocks * block_size <= batch * SMOLLM2.context_length
    assert plan.cache == plan.num_blocks * block_bytes(SMOLLM2, block_size)


def test_a_cache_limit_is_kept_or_refused() -> None:
    plan = cache_blocks(SMOLLM2, block_size=16, max_batch=64, token_budget=512, free=8 * GIB, limit=GIB)
    assert GIB - block_bytes(SMOLLM2, 16) < plan.cache <= GIB
    with pytest.raises(CapacityError, match="lower cache_bytes"):
        cache_blocks(SMOLLM2, block_size=16, max_batch=64, token_budget=512, free=GIB, limit=2 * GIB)
    with pytest.raises(CapacityError, match="raise cache_bytes"):
        cache_blocks(SMOLLM2, block_size=16, max_batch=64, token_budget=512, free=8 * GIB, limit=2**20)


def test_the_machine_tells_how_much_is_free() -> None:
    assert available_memory() > 2**20
    assert available_memory(123) == 123
    require("a byte", 1, way_out="none needed")


def test_training_takes_more_than_four_copies_of_the_weights() -> None:
    assert training_memory(SMOLLM2, 1_024, 256).total > 4 * 4 * num_parameters(SMOLLM2)


def test_the_way_out_names_only_precisions_with_fewer_bits() -> None:
    for precision, wanted in (
        ("float32", "\\(--precision bf16 or int8 or int4"),
        ("int8", "\\(--precision int4"),
    ):
        with pytest.raises(CapacityError, match=wanted):
            require_model(SMOLLM2, precision, free=1)
    for precision in ("int4", "int4min"):
        with pytest.raises(CapacityError, match=r"use a smaller model, or a machine with more memory"):
            require_model(SMOLLM2, precision, free=1)


def test_training_is_refused_for_its_size_or_for_its_batch_with_both_numbers() -> None:
    memory = training_memory(SMOLLM2, 16 * 256, 256)
    require_training(SMOLLM2, 16, 256, free=memory.total)
    with pytest.raises(CapacityError, match="lower batch_size") as caught:
        require_training(SMOLLM2, 16, 256, free=memory.total - 1)
    assert (caught.value.need, caught.value.free) == (memory.total, memory.total - 1)
    with pytest.raises(CapacityError, match=r"lower shape\.hidden_size") as caught:
        require_training(SMOLLM2, 16, 256, free=memory.states - 1)
    assert (caught.value.need, caught.value.free) == (memory.states, memory.states - 1)


def test_logits_of_a_large_batch_are_not_all_alive_and_long_rows_keep_no_scores() -> None:
    """Else a large vocabulary or a long row would be refused where there is room."""
    tokens = 2**15
    assert training_memory(SMOLLM2, tokens, 512).activations < 4 * tokens * SMOLLM2.vocab_size * 12
    short, long = (training_memory(SMOLLM2, tokens, seq_len) for seq_len in (512, 1_024))
    assert short.total > long.total


def test_a_container_has_what_its_limit_leaves_and_what_the_kernel_gives_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of files that were read are charged to it, and can be had at any time."""
    for name, text in (
        ("max", "1000000\n"),
        ("current", "900000\n"),
        ("stat", "anon 1\ninactive_file 600000\n"),
    ):
        (tmp_path / name).write_text(text)
    for name, file in (("_LIMIT_FILES", "max"), ("_USED_FILES", "current"), ("_STAT_FILES", "stat")):
        monkeypatch.setattr(memory_module, name, (str(tmp_path / file),))
    assert available_memory() == 700_000
    (tmp_path / "stat").unlink()
    assert available_memory() == 100_000


def test_every_member_of_a_crew_has_gradients_of_its_own() -> None:
    alone, four = (training_memory(SMOLLM2, 4_096, 256, members=members) for members in (1, 4))
    assert four.states - alone.states == 3 * 4 * num_parameters(SMOLLM2)


def test_every_member_of_a_crew_holds_the_logits_of_one_chunk() -> None:
    """A small batch is less than the chunks of a whole pool, and holds no more logits than it has tokens."""
    one, two, many = (
        training_memory(SMOLLM2, 512, 256, members=members).activations for members in (1, 2, 8)
    )
    chunk = CHUNK_ROWS * 14 * SMOLLM2.vocab_size
    head = 4 * SMOLLM2.vocab_size * SMOLLM2.hidden_size
    assert (two - one, many - two) == (chunk + head, 6 * head)
