"""A reply as its client sees it: the pieces of the stream, and the one fold of them.

In: `Piece`, one for each chunk of the stream.  Out: `Reply`, everything that has come so far.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """What the server has booked for a reply."""

    cost_usd: float
    energy_wh: float | None
    """None: nothing was measured or modelled."""
    energy_method: str | None
    cost_basis: str | None = None
    """Where the price of the machine comes from, as the server names it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one chunk says; what it does not mention is None."""

    text: str = ""
    num_prompt_tokens: int | None = None
    num_generated: int | None = None
    cost: Cost | None = None
    finish_reason: str | None = None
    request_id: str | None = None
    remark: str | None = None
    """What the reader should know about how the reply was asked for."""


@dataclass(slots=True)
class Reply:
    """The pieces of one reply, folded: text is appended, for the rest the latest value counts."""

    text: str = ""
    num_prompt_tokens: int = 0
    num_generated: int = 0
    cost: Cost | None = None
    """None until the server has booked the request."""
    finish_reason: str | None = None
    """None: the reply has not ended, or did not come to its end."""
    request_id: str | None = None
    remark: str | None = None
    num_cached: int | None = None
    """Prompt tokens that the server took from its prefix cache, where it tells."""

    def take(self, piece: Piece) -> None:
        """Add the next piece."""
        self.text += piece.text
        for name in ("num_prompt_tokens", "num_generated", "cost", "finish_reason", "request_id", "remark"):
            value = getattr(piece, name)
            if value is not None:
                setattr(self, name, value)
