"""One place where the books do not hold, and why."""

from dataclasses import dataclass
from typing import Literal

from tuition.core.amount import Amount


@dataclass(frozen=True, slots=True)
class Loss:
    """What the process of a period could not write, because it was killed.

    The last second of its meter, always; and where known, what it was doing.
    """

    period_id: int
    running_ns: int
    """Length so far of the step that was running."""
    late: Amount
    """In receipts that are later than the meter."""
    requests: tuple[str, ...]
    """Requests that were in flight and have no receipt."""


@dataclass(frozen=True, slots=True)
class Finding:
    """See the module."""

    place: str
    """`period 17 (bard)`, `request req_x-0`, `transaction 3`, `run bard-...`, `rate 2`, `account machine`."""
    kind: Literal["fault", "loss"]
    says: str
    """The difference, with figures and units."""
    loss: Loss | None = None
    """Of a loss: what can be accepted as known."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A loss that somebody has looked at and accepted, with the reason."""

    id: int
    created_unix_ns: int
    finding: Finding
    why: str
