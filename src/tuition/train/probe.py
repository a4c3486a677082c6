"""One evaluation during a run, or at its end.

In: the result of a task's `evaluate`, and its time.  Out: a record for checkpoints, logs and people.
"""

from dataclasses import dataclass
from typing import Any

from tuition.core.records import Score


@dataclass(frozen=True)
class Probe:
    """One evaluation on held-out items."""

    step: int
    progress: float
    seconds: float
    """Of the run so far."""
    score: Score
    samples: tuple[str, ...]

    def describe(self) -> str:
        """For people: the score, then the samples."""
        when = f"after {self.step:,} steps ({self.progress:.0%})"
        lines = [f"{when}: {described(self.score)}"]
        for sample in self.samples:
            lines += ["  | " + line for line in sample.strip().splitlines()] + [""]
        return "\n".join(lines).rstrip()


def described(score: Score) -> str:
    """The score with its error and unit, for people."""
    error = "" if score.stderr is None else f" ± {score.stderr:.3f}"
    return f"{score.value:.3f}{error} held-out {score.unit}"


def probe_from(value: dict[str, Any]) -> Probe:
    """Back from plain JSON values, as `dataclasses.asdict` gives them."""
    changed: dict[str, Any] = {"score": Score(**value["score"]), "samples": tuple(value["samples"])}
    return Probe(**(value | changed))
