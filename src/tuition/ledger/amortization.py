"""Spreading a fixed cost over what it makes: depreciation and crossover. Policy, not measurement."""

from fractions import Fraction
from typing import TypeVar

Number = TypeVar("Number", float, Fraction)


def straight_line(cost_nusd: int, residual_nusd: int, life_ns: int, elapsed_ns: int) -> int:
    """Cost charged so far when it is spread evenly over `life_ns`; never more than cost - residual."""
    _check(cost_nusd, residual_nusd)
    if life_ns <= 0:
        raise ValueError(f"a life of {life_ns} ns cannot carry a cost")
    return (cost_nusd - residual_nusd) * min(max(elapsed_ns, 0), life_ns) // life_ns


def units_of_production(cost_nusd: int, residual_nusd: int, expected_tokens: int, used_tokens: int) -> int:
    """Cost charged so far when every token of the expected lifetime carries the same part of it.

    When the expectation changes, charge the rest over the rest (`true_up`): what was charged stays charged.
    """
    _check(cost_nusd, residual_nusd)
    if expected_tokens <= 0:
        raise ValueError(f"{expected_tokens} expected tokens cannot carry a cost")
    return (cost_nusd - residual_nusd) * min(max(used_tokens, 0), expected_tokens) // expected_tokens


def true_up(cost_nusd: int, residual_nusd: int, charged_nusd: int, remaining_tokens: int) -> float:
    """Charge per token from now on, nUSD, after a new expectation of the tokens that remain."""
    _check(cost_nusd, residual_nusd)
    if remaining_tokens <= 0:
        raise ValueError(f"{remaining_tokens} remaining tokens cannot carry a cost")
    return max(0, cost_nusd - residual_nusd - charged_nusd) / remaining_tokens


def crossover_tokens(fixed_nusd: int, marginal_nusd: Number) -> Number | None:
    """Tokens at which the variable cost has grown to the fixed cost; None where a token costs nothing.

    Exact for a `Fraction`. With the margin of a token instead of its cost: the break-even.
    """
    return fixed_nusd / marginal_nusd if marginal_nusd > 0 else None


def _check(cost_nusd: int, residual_nusd: int) -> None:
    if not 0 <= residual_nusd <= cost_nusd:
        raise ValueError(f"a residual of {residual_nusd} does not fit a cost of {cost_nusd}")
