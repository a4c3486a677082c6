"""One place where the books do not hold, and why."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """See the module."""

    place: str
    """`period 17 (bard)`, `request req_x-0`, `transaction 3`, `run bard-...`, `rate 2`, `account machine`."""
    kind: Literal["fault", "loss"]
    says: str
    """The difference, with figures and units."""
