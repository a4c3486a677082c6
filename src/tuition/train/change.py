"""One measure of a model before training and after it, on the same items.

In: sums of each item before and after, like nats, and the sizes they are divided by, like tokens.
Out: a `Change`: both means, and their difference with an error that is paired by item.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tuition.train.scoring import ratio

WIDTH = 1.96
"""Standard errors on each side of a 95 % interval."""


@dataclass(frozen=True)
class Change:
    """A measure that is lower when the model is better. `stderr` of each figure is over the items; None where
    there is only one."""

    what: str
    """What was measured, for people: `held-out loss`."""
    unit: str
    before: float
    before_stderr: float | None
    after: float
    after_stderr: float | None
    difference_stderr: float | None
    """Of `after - before`: items that are hard for both models do not count as noise."""
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


def change(
    what: str, unit: str, before: Sequence[float], after: Sequence[float], sizes: Sequence[int]
) -> Change:
    """The change of a ratio of sums.

    Source of the errors: Cochran, Sampling Techniques, 1977, section 6.4.
    """
    differences = [later - earlier for earlier, later in zip(before, after, strict=True)]
    first, first_stderr = ratio(before, sizes)
    last, last_stderr = ratio(after, sizes)
    _, stderr = ratio(differences, sizes)
    return Change(what, unit, first, first_stderr, last, last_stderr, stderr, len(sizes))
