"""Sizes that are left open: what is named stays, the rest goes with it, and the budget decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuition.core.errors import SettingsError
from tuition.data.settings import DataSettings
from tuition.plan.shape import LEAST_BYTES, STANDARD, TABLE, evaluation_for, num_tokens_in, size_for
from tuition.spec.counts import num_parameters
from tuition.train.recipes.pretrain_settings import PretrainSettings, ShapeSettings
from tuition.train.recipes.pretrain_sizes import Sizes, complete, first_weights, is_open

NUMBERS = st.none() | st.integers(1, 12)


@given(NUMBERS, NUMBERS, NUMBERS, st.none() | st.integers(8, 2_000), st.sampled_from([s for _, s in TABLE]))
def test_what_is_named_stays_and_the_rest_fits(
    hidden: int | None, heads: int | None, kv_heads: int | None, mlp: int | None, size
) -> None:
    try:
        shape = ShapeSettings(
            hidden_size=hidden and 16 * hidden, num_heads=heads, num_kv_heads=kv_heads, mlp_size=mlp
        )
        sizes = complete(PretrainSettings(shape=shape), size)
    except SettingsError:
        return
    sizes.model_shape(shape, 300)
    assert sizes.hidden_size % (2 * sizes.num_heads) == 0
    assert sizes.num_heads % sizes.num_kv_heads == 0
    for name in ("hidden_size", "num_heads", "num_kv_heads", "mlp_size"):
        assert getattr(shape, name) in (None, getattr(sizes, name))


@given(NUMBERS)
def test_a_width_alone_is_enough_and_so_are_heads(number: int | None) -> None:
    complete(PretrainSettings(shape=ShapeSettings(hidden_size=number and 2 * number)))
    complete(PretrainSettings(shape=ShapeSettings(num_heads=number)))
    complete(PretrainSettings(shape=ShapeSettings(num_kv_heads=number)))


def test_without_a_budget_the_sizes_are_the_same_everywhere() -> None:
    assert complete(PretrainSettings()) == Sizes(256, 4, 4, 4, 768, 256, 4_096, 16, 256)
    assert complete(PretrainSettings(), STANDARD) == complete(PretrainSettings())


def test_a_named_context_bounds_the_rows() -> None:
    settings = PretrainSettings(shape=ShapeSettings(context_length=100))
    assert complete(settings).seq_len == complete(settings).context_length == 100


def test_more_time_and_more_text_never_make_a_smaller_model() -> None:
    def parameters(seconds: float, text_bytes: int) -> int:
        sizes = complete(PretrainSettings(), size_for(seconds, 4e11, text_bytes))
        return num_parameters(sizes.model_shape(ShapeSettings(), sizes.vocab_size))

    by_time = [parameters(2.0**power, 10**9) for power in range(20)]
    assert by_time == sorted(by_time)
    assert by_time[0] < by_time[-1]
    by_text = [parameters(1e6, 4**power) for power in range(16)]
    assert by_text == sorted(by_text)
    assert by_text[0] < by_text[-1]


def test_every_size_of_the_table_is_reached_and_makes_a_model() -> None:
    products = [least for least, _ in TABLE]
    assert products == sorted(products)
    assert list(LEAST_BYTES) == sorted(LEAST_BYTES)
    for (least, size), text_bytes in zip(TABLE, LEAST_BYTES, strict=True):
        found = size_for(max(least, 1.0), 1.0, max(text_bytes, 2**14))
        assert found == size
        complete(PretrainSettings(), size).model_shape(ShapeSettings(), size.vocab_size)


def test_short_text_has_short_rows() -> None:
    assert size_for(60, 4e11, 1_000).seq_len == 62


@pytest.mark.parametrize("seconds", [1.0, 10.0, 45.0, 240.0, 36_000.0])
def test_evaluation_takes_a_small_part_of_any_budget(seconds: float) -> None:
    """At most the stated share, or the least that says anything."""
    size = size_for(seconds, 1e11, 10**6)
    sizes = complete(PretrainSettings(), size)
    shape = sizes.model_shape(ShapeSettings(), sizes.vocab_size)
    num_tokens = num_tokens_in(seconds, 1e11, shape, sizes.seq_len)
    plan = evaluation_for(seconds, num_tokens)
    scored = (plan.times - 1) * plan.probe_bytes
    assert scored <= max(0.05 * num_tokens * 4.5, (plan.times - 1) * 2_048)
    assert plan.final_bytes is not None
    assert plan.final_bytes <= max(0.2 * num_tokens * 4.5, 65_536)


def test_a_setting_is_open_when_it_is_left_out() -> None:
    assert is_open(PretrainSettings(data=DataSettings(demo="stdlib")))
    shape = ShapeSettings(hidden_size=32, num_layers=2, num_heads=2)
    named = PretrainSettings(shape=shape, vocab_size=300, batch_size=2, seq_len=8)
    assert not is_open(named)


@pytest.mark.parametrize("shape", [{"num_layers": 1}, {"hidden_size": 48, "num_heads": 4}])
def test_induction_wants_room_for_its_heads(shape: dict) -> None:
    settings = PretrainSettings(first_weights="induction", shape=ShapeSettings(**shape))
    sizes = complete(settings)
    with pytest.raises(SettingsError, match=r"random, or a shape with .* or more, got"):
        first_weights(settings, sizes.model_shape(settings.shape, 300))
