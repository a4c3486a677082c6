"""The weights with the best score of all evaluations of a run. They are kept on disk and survive a kill.

In: a training state and its score at an evaluation.  Out: the state with the best of those weights. They are
separate checkpoints, `best/step-.../`, which hold only the weights. A checkpoint of the run names the best
one so far. A resume repeats the steps after its checkpoint, so later best weights are removed.
"""

from pathlib import Path
from typing import Any, Literal

from tuition.runtime.checkpoints import load_step, remove_after, save_checkpoint
from tuition.train.optim import take_tensors
from tuition.train.state import TrainState, changing

Keeps = Literal["lowest score", "highest score", "last"]

NUM_KEPT = 4
"""Newest best weights on disk: the one that the last checkpoint names must be among them."""


class BestWeights:
    """See the module."""

    def __init__(self, folder: Path, keeps: Keeps) -> None:
        self.folder, self.keeps = folder, keeps
        self.step: int | None = None
        """Of the best weights so far; None: no evaluation yet, or the last weights are kept."""
        self.score = 0.0

    def is_better(self, score: float) -> bool:
        """Whether weights with this score are the best so far."""
        if self.keeps == "last" or self.step is None:
            return self.keeps != "last"
        return score < self.score if self.keeps == "lowest score" else score > self.score

    def offer(self, state: TrainState, score: float) -> None:
        """Keep the weights if they are the best so far. Raises: OSError; the best so far is then kept."""
        if not self.is_better(score):
            return
        save_checkpoint(self.folder, state.step, changing(state.model), {"score": score}, keep=NUM_KEPT)
        self.step, self.score = state.step, score

    def restore(self, state: TrainState) -> int:
        """Put the best weights into the model; returns the step that they are from."""
        if self.step is None:
            return state.step
        take_tensors(changing(state.model), load_step(self.folder, self.step).tensors)
        return self.step

    def values(self) -> dict[str, Any]:
        """Plain JSON values for a checkpoint; `load` takes them back."""
        return {"step": self.step, "score": self.score}

    def load(self, values: dict[str, Any], step: int) -> None:
        """Go back to a checkpoint of this step. Raises: ModelError where the best weights are damaged."""
        remove_after(self.folder, step)
        self.step, self.score = values["step"], values["score"]
        if self.step is not None:
            load_step(self.folder, self.step)
