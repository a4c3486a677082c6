"""Spreading a fixed cost over what it makes: depreciation, break-even, crossover. Policy, not measurement."""


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


def break_even_tokens(fixed_nusd: int, price_nusd: float, marginal_nusd: float) -> float | None:
    """Tokens to sell until the price has paid for the training; None if a token costs what it brings."""
    return None if price_nusd <= marginal_nusd else fixed_nusd / (price_nusd - marginal_nusd)


def crossover_tokens(fixed_nusd: int, marginal_nusd: float) -> float | None:
    """Tokens at which the variable cost has grown to the fixed cost; None where a token costs nothing."""
    return fixed_nusd / marginal_nusd if marginal_nusd > 0 else None


def usd_per_million_tokens(usd_per_hour: float, tokens_per_s: float, utilisation: float) -> float:
    """Cost of a million tokens on a machine that is busy for the share `utilisation` of the time."""
    if not 0 < utilisation <= 1 or tokens_per_s <= 0:
        raise ValueError(f"no tokens at {tokens_per_s}/s and utilisation {utilisation}")
    return usd_per_hour / (3_600 * tokens_per_s * utilisation) * 1e6


def _check(cost_nusd: int, residual_nusd: int) -> None:
    if not 0 <= residual_nusd <= cost_nusd:
        raise ValueError(f"a residual of {residual_nusd} does not fit a cost of {cost_nusd}")
