"""How many decode steps one call of a runner may take (decision 0009)."""

from dataclasses import dataclass

from tuition.core.units import NS_PER_S


@dataclass(slots=True)
class Pace:
    """The length of a burst: many steps where a step is short, few where readers would wait for words."""

    max_steps: int | None = 128
    """Most decode steps in one call: enough that Python between calls costs little. None: single steps."""
    max_seconds: float = 0.016
    """No step of a burst begins later than this after the first: readers get words sixty times a second."""
    step_s: float = 0.0
    """Duration of a step in the last burst."""

    @property
    def num_steps(self) -> int | None:
        """Steps of the next burst that fit into its time; None: single steps."""
        if self.max_steps is None or self.max_steps * self.step_s <= self.max_seconds:
            return self.max_steps
        return 2 + int(self.max_seconds / self.step_s)

    def learn(self, num_steps: int, took_ns: int) -> None:
        """Take in a burst of `num_steps`."""
        self.step_s = took_ns / num_steps / NS_PER_S
