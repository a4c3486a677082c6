"""A measure of a model before and after training, on the same items.

In: for each item a sum (nats) and a size (tokens).
Out: a `Measured`, its score, and the `Change` between two: both means, and their difference with a paired
standard error.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuition.core.durable import write_json
from tuition.core.records import Score
from tuition.train.scoring import ratio

WIDTH = 1.96
"""Standard errors on each side of a 95 % interval."""


@dataclass(frozen=True)
class Measured:
    """A ratio of sums over items; lower is better."""

    what: str
    """What was measured, for people: `held-out loss`."""
    unit: str
    method: str
    """How it was measured, for people."""
    sums: tuple[float, ...]
    sizes: tuple[int, ...]
    num_tokens: int
    """Tokens that were scored."""

    def score(self, data_digest: str | None = None) -> Score:
        value, stderr = ratio(self.sums, self.sizes)
        return Score(
            self.what, value, stderr, self.unit, self.method,
            num_items=len(self.sizes), num_tokens=self.num_tokens, data_digest=data_digest,
        )  # fmt: skip


@dataclass(frozen=True)
class Change:
    """Two measures of the same items. Standard errors are over the items; None if there is only one item."""

    what: str
    unit: str
    before: float
    before_stderr: float | None
    after: float
    after_stderr: float | None
    difference_stderr: float | None
    """Of `after - before`, paired by item: an item that is hard before and after adds no noise."""
    num_items: int

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the difference."""
        if self.difference_stderr is None:
            return None
        half = WIDTH * self.difference_stderr
        return self.difference - half, self.difference + half


def change(before: Measured, after: Measured) -> Change:
    """Raises: ValueError unless both are of the same items.

    Source of the errors: Cochran, Sampling Techniques, 1977, section 6.4.
    """
    if (before.what, before.sizes) != (after.what, after.sizes):
        raise ValueError(f"{before.what} and {after.what} are not of the same items")
    differences = [later - earlier for earlier, later in zip(before.sums, after.sums, strict=True)]
    first, last = ratio(before.sums, before.sizes), ratio(after.sums, after.sizes)
    _, stderr = ratio(differences, after.sizes)
    return Change(after.what, after.unit, *first, *last, stderr, len(after.sizes))


def write_measured(path: Path, measured: Sequence[Measured]) -> None:
    """Durably, as JSON."""
    write_json(path, [dataclasses.asdict(part) for part in measured])


def read_measured(path: Path) -> tuple[Measured, ...]:
    """What was written there; nothing where no file is."""
    if not path.is_file():
        return ()
    parts = json.loads(path.read_text(encoding="utf-8"))
    return tuple(Measured(**part | {name: tuple(part[name]) for name in ("sums", "sizes")}) for part in parts)
