"""The meter under each reply, and the sum of a conversation.

Tokens, seconds, watt-hours, money, and how they are known.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from tuition.client.api import BusyHour
from tuition.client.reply import Cost, Piece, Reply

KNOWN_BY = {
    "nvml": ("measured", "Read from the energy counter of the graphics card."),
    "rapl": ("measured", "Read from the energy counter of the processor."),
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
TOKENS_HINT = (
    "Tokens in: what the model read, which is your message and the conversation before it. "
    "Tokens out: what it wrote."
)
TOTAL_HINT = "The sum over all replies: with each reply the model reads the conversation again."


@dataclass(frozen=True, slots=True)
class Reading:
    """One figure as it is shown."""

    kind: str
    text: str
    mark: str = ""
    hint: str = ""


@dataclass
class Meter:
    """One reply and its figures: estimates while it comes, the booked cost as soon as that is known."""

    reply: Reply = field(default_factory=Reply)
    busy_hour: BusyHour | None = None
    first_token_s: float | None = None
    """After the question was sent; None before the first token."""
    total_s: float | None = None
    """From the question to the end of the reply; None while it comes."""
    started_s: float = field(default_factory=time.monotonic)

    def take(self, piece: Piece) -> None:
        """Add the next piece of the reply."""
        self.reply.take(piece)
        if self.first_token_s is None and (self.reply.text or self.reply.num_generated):
            self.first_token_s = time.monotonic() - self.started_s

    def end(self) -> None:
        """No more pieces will come."""
        if self.total_s is None:
            self.total_s = self.seconds

    @property
    def seconds(self) -> float:
        """Since the question was sent."""
        return time.monotonic() - self.started_s if self.total_s is None else self.total_s

    @property
    def tokens_per_second(self) -> float | None:
        """Over the time in which tokens came; None before there are two."""
        if self.first_token_s is None or self.reply.num_generated < 2:
            return None
        span = self.seconds - self.first_token_s
        return (self.reply.num_generated - 1) / span if span > 0 else None

    def readings(self) -> list[Reading]:
        """What stands under the reply now; nothing if it was refused."""
        reply = self.reply
        if self.total_s is not None and not (reply.num_prompt_tokens or reply.num_generated or reply.text):
            return []  # refused before anything was read
        shown = [
            Reading("tokens", _tokens(reply.num_prompt_tokens, reply.num_generated), hint=TOKENS_HINT),
            Reading("seconds", f"{self.seconds:.1f} s"),
        ]
        speed = self.tokens_per_second
        if speed is not None:
            shown.append(Reading("speed", f"{speed:,.0f} tokens/s", hint="After the first token."))
        if reply.cost is not None:
            shown += _cost_readings(reply.cost)
        elif self.busy_hour is not None and (self.total_s is None or reply.num_generated):
            shown += _estimates(self.busy_hour, self.seconds / 3_600)
        elif self.total_s is None:
            shown.append(
                Reading("estimate", "metering", hint="Energy and money are known when the reply ends.")
            )
        return shown


def total_readings(replies: Iterable[Reply]) -> list[Reading]:
    """The figures of a whole conversation; none before the first reply has ended."""
    ended = [reply for reply in replies if reply.num_prompt_tokens]
    if not ended:
        return []
    num_in, num_out = sum(r.num_prompt_tokens for r in ended), sum(r.num_generated for r in ended)
    costs = [reply.cost for reply in ended if reply.cost is not None]
    energies = [cost.energy_wh for cost in costs if cost.energy_wh is not None]
    shown = [Reading("tokens", f"Total: {_tokens(num_in, num_out)}", hint=TOTAL_HINT)]
    if energies:
        shown.append(Reading("energy", _energy(sum(energies))))
    if costs:
        shown.append(Reading("money", _money(sum(cost.cost_usd for cost in costs))))
    return shown


def _tokens(num_in: int, num_out: int) -> str:
    return f"{num_in:,} in, {num_out:,} out"


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
    """Plain decimals with two significant digits: 12.35, 0.042, 0.00000041."""
    if value == 0:
        return "0"
    decimals = 2
    while decimals < 12 and abs(value) * 10 ** (decimals - 1) < 1:
        decimals += 1
    return f"{value:,.{decimals}f}"
