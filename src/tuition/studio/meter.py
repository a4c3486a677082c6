"""The meter under each reply, and the sum of a conversation.

Tokens, seconds, watt-hours, money, and how they are known.
"""

import time
from dataclasses import dataclass, field

from tuition.studio.api import BusyHour, Cost, Piece

KNOWN_BY = {
    "nvml": ("measured", "Read from the graphics card's own energy counter."),
    "rapl": ("measured", "Read from the processor's own energy counter."),
    "modelled": (
        "modelled",
        "Calculated: the power this machine is assumed to draw, times the time it worked.",
    ),
    None: ("unknown", "Nothing was measured or modelled on this machine."),
}
PRICED_BY = {
    "assumed": ("assumed", "The hourly price of this machine is an assumption; set your own to replace it."),
    "catalogue": ("catalogue", "The hourly price of this machine comes from the dated catalogue."),
    "user": ("your rate", "The hourly price is the one you have set."),
    "measured": ("measured", "The hourly price was measured."),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """One figure as it is shown."""

    kind: str
    text: str
    mark: str = ""
    hint: str = ""


@dataclass
class Meter:
    """Counts one reply while it comes: estimates until the bill is there, then shows that."""

    busy_hour: BusyHour | None = None
    started_s: float = field(default_factory=time.monotonic)
    first_token_s: float | None = None
    ended_s: float | None = None
    num_prompt_tokens: int = 0
    num_generated: int = 0
    cost: Cost | None = None

    def take(self, piece: Piece) -> None:
        """Note what a piece says."""
        if piece.num_prompt_tokens is not None:
            self.num_prompt_tokens = piece.num_prompt_tokens
        if piece.num_generated is not None:
            self.num_generated = piece.num_generated
        if self.first_token_s is None and (piece.text or self.num_generated):
            self.first_token_s = time.monotonic()
        if piece.cost is not None:
            self.cost = piece.cost

    def end(self) -> None:
        """The reply has ended, whichever way."""
        if self.ended_s is None:
            self.ended_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the question was sent."""
        return (self.ended_s or time.monotonic()) - self.started_s

    @property
    def tokens_per_second(self) -> float | None:
        """Over the time in which tokens came; None before there are two."""
        if self.first_token_s is None or self.num_generated < 2:
            return None
        span = (self.ended_s or time.monotonic()) - self.first_token_s
        return (self.num_generated - 1) / span if span > 0 else None

    def readings(self) -> list[Reading]:
        """What stands under the reply now."""
        tokens = f"{self.num_generated:,} token{'' if self.num_generated == 1 else 's'}"
        hint = f"{self.num_prompt_tokens:,} tokens read, {self.num_generated:,} written."
        shown = [Reading("tokens", tokens, hint=hint), Reading("seconds", f"{self.seconds:.1f} s")]
        speed = self.tokens_per_second
        if speed is not None:
            shown.append(Reading("speed", f"{speed:,.0f} tokens/s", hint="After the first token."))
        if self.cost is not None:
            shown += _cost_readings(self.cost)
        elif self.busy_hour is not None and (self.ended_s is None or self.num_generated):
            shown += _estimates(self.busy_hour, self.seconds / 3_600)
        elif self.ended_s is None:
            shown.append(
                Reading("estimate", "metering", hint="Energy and money are known when the reply ends.")
            )
        return shown


@dataclass
class Totals:
    """The sum over a conversation."""

    num_tokens: int = 0
    cost_usd: float = 0.0
    energy_wh: float | None = None
    num_replies: int = 0

    def add(self, meter: Meter) -> None:
        """Add a reply that has ended."""
        self.num_replies += 1
        self.num_tokens += meter.num_prompt_tokens + meter.num_generated
        if meter.cost is not None:
            self.cost_usd += meter.cost.cost_usd
            if meter.cost.energy_wh is not None:
                self.energy_wh = (self.energy_wh or 0.0) + meter.cost.energy_wh

    def readings(self) -> list[Reading]:
        """The line at the top of the page."""
        tokens = f"In all: {self.num_tokens:,} tokens"
        shown = [Reading("tokens", tokens, hint="Read and written, over all replies.")]
        if self.energy_wh is not None:
            shown.append(Reading("energy", _energy(self.energy_wh)))
        shown.append(Reading("money", _money(self.cost_usd)))
        return shown


def _cost_readings(cost: Cost) -> list[Reading]:
    mark, hint = KNOWN_BY.get(cost.energy_method, KNOWN_BY[None])
    energy = "energy unknown" if cost.energy_wh is None else _energy(cost.energy_wh)
    price_mark, price_hint = PRICED_BY.get(cost.cost_basis or "", ("", "Machine time at its hourly price."))
    return [
        Reading("energy", energy, "" if cost.energy_wh is None else mark, hint),
        Reading("money", _money(cost.cost_usd), price_mark, price_hint),
    ]


def _estimates(busy_hour: BusyHour, hours: float) -> list[Reading]:
    hint = "Estimated: the time so far, as if the machine worked for this reply alone. The bill follows."
    return [
        Reading("estimate", f"≈ {_energy(busy_hour.energy_wh * hours)}", hint=hint),
        Reading("estimate", f"≈ {_money(busy_hour.usd * hours)}", hint=hint),
    ]


def _energy(watt_hours: float) -> str:
    return f"{_two_digits(watt_hours)} Wh"


def _money(usd: float) -> str:
    return f"${_two_digits(usd)}"


def _two_digits(value: float) -> str:
    """Plain decimals with two digits that say something: 12.35, 0.042, 0.00000041."""
    if value == 0:
        return "0"
    decimals = 2
    while decimals < 12 and abs(value) * 10 ** (decimals - 1) < 1:
        decimals += 1
    return f"{value:,.{decimals}f}"
