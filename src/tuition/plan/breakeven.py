"""When a model has paid for itself, and when using it has cost as much as teaching it. No torch.

In: fixed cost (training), marginal cost and price per token.  Out: numbers of tokens, or None where there
is none. Money in nUSD; costs per million tokens, since one token costs less than the smallest unit.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from tuition.core.errors import SettingsError
from tuition.core.units import NUSD_PER_USD
from tuition.ledger.amortization import crossover_tokens

TOKENS_PER_MTOK = 1_000_000


@dataclass(frozen=True)
class BreakEven:
    """Fixed cost against cost and price per token."""

    fixed_nusd: int
    """Paid once, for teaching."""
    marginal_nusd_per_mtok: int
    """What a million more tokens cost."""
    price_nusd_per_mtok: int | None = None
    """What a million tokens bring or save; None: nobody pays."""

    def __post_init__(self) -> None:
        for name in ("fixed_nusd", "marginal_nusd_per_mtok", "price_nusd_per_mtok"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise SettingsError(name, got=value, wanted="0 or more")

    @property
    def crossover_tokens(self) -> int | None:
        """Tokens at which the variable cost has grown to the fixed one; None if tokens cost nothing."""
        return _tokens(self.fixed_nusd, self.marginal_nusd_per_mtok)

    @property
    def break_even_tokens(self) -> int | None:
        """Tokens whose margin pays the fixed cost back;
        None if the price does not exceed the marginal cost.
        """
        if self.price_nusd_per_mtok is None:
            return None
        return _tokens(self.fixed_nusd, self.price_nusd_per_mtok - self.marginal_nusd_per_mtok)


def _tokens(fixed_nusd: int, nusd_per_mtok: int) -> int | None:
    tokens = crossover_tokens(fixed_nusd, Fraction(nusd_per_mtok, TOKENS_PER_MTOK))
    return None if tokens is None else math.ceil(tokens)


def cost_per_mtok(usd_per_hour: float, tokens_per_s: float, utilisation: float) -> float:
    """US dollars per million tokens of a machine: hourly cost / (3600 x tokens per second x utilisation) x
    1e6.

    `utilisation` (0 to 1] is never assumed silently, hence without default. Raises: SettingsError.
    """
    if not 0 < utilisation <= 1:
        raise SettingsError("utilisation", got=utilisation, wanted="above 0 and at most 1")
    if tokens_per_s <= 0:
        raise SettingsError("tokens_per_s", got=tokens_per_s, wanted="above 0")
    return usd_per_hour / (3_600 * tokens_per_s * utilisation) * TOKENS_PER_MTOK


def marginal_from_rate(usd_per_hour: float, tokens_per_s: float, utilisation: float) -> int:
    """The same in nUSD per million tokens, rounded up."""
    return math.ceil(cost_per_mtok(usd_per_hour, tokens_per_s, utilisation) * NUSD_PER_USD)
