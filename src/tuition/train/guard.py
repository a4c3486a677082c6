"""When to skip an optimizer step: its loss or gradient is not a number, or is far from the recent ones.

In: loss and gradient norm of a step that is computed and not yet applied.  Out: the problem, or None.
A skipped step changes no weight and is counted; too many skipped steps end the run.
"""

import math
import statistics
from collections import deque
from typing import Any

from tuition.core.errors import TuitionError
from tuition.train.settings import GuardSettings


class DivergedError(TuitionError):
    """Training diverged: too many steps within a window had to be skipped."""

    def __init__(self, step: int, problems: list[str], window: int) -> None:
        self.step, self.problems = step, problems
        super().__init__(
            f"step {step:,}: {len(problems)} steps within {window:,} were skipped ({'; '.join(problems)}); "
            "lower optimizer.lr and optimizer.muon_lr, or check the data of these steps, "
            "and begin a new run"
        )


class Guard:
    """Keeps the losses and norms of recent good steps, and compares the next step with their medians."""

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self.losses: deque[float] = deque(maxlen=settings.history)
        self.norms: deque[float] = deque(maxlen=settings.history)
        self.skipped: list[tuple[int, str]] = []
        """Step and problem of every skipped step, over the whole run."""

    def problem(self, loss: float, grad_norm: float) -> str | None:
        """Why to skip this step; None: it can be applied."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"the gradient norm is {grad_norm}"
        if len(self.losses) * 4 < self.settings.history:
            return None
        usual_loss, usual_norm = statistics.median(self.losses), statistics.median(self.norms)
        if loss > usual_loss + self.settings.loss_rise:
            return f"the loss is {loss:.3g}, lately {usual_loss:.3g}"
        if grad_norm > max(usual_norm, self.settings.gradient_floor) * self.settings.gradient_factor:
            return f"the gradient norm is {grad_norm:.3g}, lately {usual_norm:.3g}"
        return None

    def take(self, loss: float, grad_norm: float) -> None:
        """Remember a good step."""
        self.losses.append(loss)
        self.norms.append(grad_norm)

    def skip(self, step: int, problem: str) -> None:
        """Remember a skipped step. Raises: DivergedError when there are too many of them."""
        self.skipped.append((step, problem))
        recent = [text for at, text in self.skipped if at > step - self.settings.window]
        if len(recent) >= self.settings.most_skipped:
            raise DivergedError(step, recent, self.settings.window)

    def state(self) -> dict[str, Any]:
        """Plain JSON values; `load` takes them back."""
        return {
            "losses": list(self.losses),
            "norms": list(self.norms),
            "skipped": [list(entry) for entry in self.skipped],
        }

    def load(self, state: dict[str, Any]) -> None:
        self.losses.extend(state["losses"])
        self.norms.extend(state["norms"])
        self.skipped = [(step, problem) for step, problem in state["skipped"]]
