"""Evaluations of a run that begins from a base model: the same measures before training and at its end.

In: a measure of held-out items, and a control text.  Out: `Evaluated`, at the end with the changes.
The measures before training are kept in the run's folder, so that a resumed run compares with them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tuition.model.decoder import Decoder
from tuition.train.change import Measured, change, read_measured, write_measured
from tuition.train.control import Control
from tuition.train.recipe import Evaluated, EvaluationKind, RunContext

WORSE = "training made the model worse on held-out items: lower optimizer.lr, or train for a shorter time"


@dataclass(frozen=True)
class Comparing:
    """Scores a run before training, at intervals and at its end, and compares first and last."""

    context: RunContext
    model: Decoder
    measure: Callable[[EvaluationKind], Measured]
    """The held-out items."""
    sizes: tuple[int, ...]
    """Of the held-out items that are measured before and at the end."""
    control: Control | None
    data_digest: str

    def evaluate(self, kind: EvaluationKind) -> Evaluated:
        if kind == "interim":
            return Evaluated(self.measure(kind).score(self.data_digest))
        kept = read_measured(self.context.folder.before)
        if kind == "before" and tuple(part.sizes for part in kept) == self._all_sizes():
            return Evaluated(kept[0].score(self.data_digest))
        measured = (self.measure(kind), *self._controlled())
        if kind == "before":
            write_measured(self.context.folder.before, measured)
            kept = measured
        changes = tuple(change(before, after) for before, after in zip(kept, measured, strict=True))
        return Evaluated(
            measured[0].score(self.data_digest),
            further=tuple(part.score() for part in measured[1:]),
            changes=changes if kind == "final" else (),
            warning=WORSE if changes[0].difference > 0 else None,
        )

    def _all_sizes(self) -> tuple[tuple[int, ...], ...]:
        return (self.sizes, *(() if self.control is None else (self.control.sizes,)))

    def _controlled(self) -> tuple[Measured, ...]:
        if self.control is None:
            return ()
        return (self.control.measure(self.model, self.context.precision, self.context.pool),)
