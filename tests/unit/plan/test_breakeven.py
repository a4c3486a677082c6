"""Break-even and crossover: where there is one, it is exact to the token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.core.errors import SettingsError
from tuition.plan.breakeven import BreakEven, cost_per_mtok, marginal_from_rate

money = st.integers(0, 10**15)


@settings(deadline=None)
@given(money, money)
def test_at_the_crossover_the_variable_cost_has_just_grown_to_the_fixed_one(
    fixed: int, marginal: int
) -> None:
    tokens = BreakEven(fixed, marginal).crossover_tokens
    if marginal == 0:
        assert tokens is None
        return
    assert tokens is not None
    assert tokens * marginal >= fixed * 1_000_000
    assert tokens == 0 or (tokens - 1) * marginal < fixed * 1_000_000


@settings(deadline=None)
@given(money, money, money)
def test_at_break_even_the_margin_has_just_paid_the_fixed_cost(fixed: int, marginal: int, price: int) -> None:
    tokens = BreakEven(fixed, marginal, price).break_even_tokens
    if price <= marginal:
        assert tokens is None
        return
    assert tokens is not None
    assert tokens * (price - marginal) >= fixed * 1_000_000
    assert tokens == 0 or (tokens - 1) * (price - marginal) < fixed * 1_000_000


def test_without_a_price_there_is_no_break_even() -> None:
    assert BreakEven(1_000, 10).break_even_tokens is None


def test_published_serving_figures_follow() -> None:
    """facts/identities.csv: ds_cost_per_mtok_out and sglang_cost_per_mtok_out, eight GPUs at 2 USD per
    hour."""
    assert cost_per_mtok(16, 14_800, 1.0) == pytest.approx(0.3003, rel=1e-3)
    assert cost_per_mtok(16, 22_300, 1.0) == pytest.approx(0.2, rel=0.01)
    assert cost_per_mtok(16, 14_800, 0.5) == 2 * cost_per_mtok(16, 14_800, 1.0)
    assert marginal_from_rate(3.6, 1_000, 1.0) == 1_000_000_000


def test_impossible_figures_are_refused() -> None:
    with pytest.raises(SettingsError):
        BreakEven(-1, 0)
    with pytest.raises(SettingsError):
        cost_per_mtok(1.0, 10.0, 0.0)
    with pytest.raises(SettingsError):
        cost_per_mtok(1.0, 0.0, 1.0)
