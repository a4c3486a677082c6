"""Compare two models on the same items.  In: their results.  Out: a `Comparison`, paired by item."""

from dataclasses import dataclass
from typing import Literal

from tuition.core.errors import SettingsError
from tuition.evals.result import ItemResult, TaskResult
from tuition.evals.statistics import Difference, paired_difference

Change = Literal["gained", "lost", "kept right", "kept wrong"]


@dataclass(frozen=True)
class Pair:
    """One item with the results of both models."""

    a: ItemResult
    b: ItemResult

    @property
    def change(self) -> Change:
        """From a to b."""
        if self.a.right == self.b.right:
            return "kept right" if self.a.right else "kept wrong"
        return "gained" if self.b.right else "lost"


@dataclass(frozen=True)
class Comparison:
    """b against a on one task."""

    a: TaskResult
    b: TaskResult
    pairs: tuple[Pair, ...]
    accuracy: Difference
    score: Difference | None
    """Difference of the scores; None if no item is partly right, since it would equal that of the
    accuracies."""

    def changed(self, change: Change) -> list[Pair]:
        """The items with this change, in the order of the task."""
        return [pair for pair in self.pairs if pair.change == change]


def compare(a: TaskResult, b: TaskResult) -> Comparison:
    """Raises: SettingsError where they are not of the same task."""
    if a.task_digest != b.task_digest:
        raise SettingsError("tasks", got=f"{a.task} and {b.task}", wanted="results of the same task")
    pairs = tuple(Pair(*both) for both in zip(a.items, b.items, strict=True))
    right = [[float(item.right) for item in result.items] for result in (a, b)]
    scores = [[item.score for item in result.items] for result in (a, b)]
    return Comparison(
        a=a,
        b=b,
        pairs=pairs,
        accuracy=paired_difference(*right),
        score=paired_difference(*scores) if scores != right else None,
    )
