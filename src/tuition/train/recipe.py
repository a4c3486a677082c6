"""The seam between the one training loop and a way of training: `Recipe`, and the `TrainingTask` it builds.

In: settings and a `RunContext`.  Out: a model, batches, a loss, an evaluation, and a folder with the result.
`run`, `session`, `loop`, `step` and `state` know nothing else of what is trained. A recipe is one file in
`recipes/` and one row in `recipes/table.py`; a program can also pass its own to `run_training`.

The recipes there are:

- pretraining: `recipes/pretrain.py`. The unit is a token.
- fine-tuning by examples: `recipes/finetune.py`. `Batch.num_units` counts taught tokens only, so the mean is
  right for every packing and microbatch.
- continued pretraining: `recipes/continued.py`.
- either of the two with an adapter: `recipes/base.py`. Parameters of the base have `requires_grad` False. The
  step, the optimizer and the checkpoints take only trainable parameters (and persistent buffers); the base is
  loaded again on resume. `write` saves the adapter, `lineage` names the parent.

How the planned ones fit:

- preference training with a reference model (DPO): the task holds the reference beside `model`, so it is
  neither trained nor saved. A batch holds pairs; `shares` keeps the two halves of a pair together.
- rollouts and rewards (GRPO): `batch(step)` is called in order, before the step, and may generate with the
  present weights of `model`. The engine is in a package of the same layer, so whoever wires the run (`learn`,
  `cli`) gives the recipe a function that generates. Draws are seeded by the step, and the step is all that a
  resume needs; a task with more state keeps it in persistent buffers of `model`.
- distillation: the teacher is held like a reference model, or its probabilities are part of the batch.
- classification and regression: a batch holds inputs and labels, the unit is an image, a window or a text;
  `evaluate` scores the held-out items. A model with batch statistics returns itself whole from `shares`,
  since shares are computed at the same time by several threads.
- drawing: images become tokens in `prepare`; the rest is pretraining.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from tuition.core.progress import Progress
from tuition.core.records import Score
from tuition.core.workspace import Workspace
from tuition.registry.lineage import Lineage
from tuition.registry.registry import Registry
from tuition.runtime.device import Precision
from tuition.runtime.group import Group
from tuition.runtime.thread_pool import ThreadPool
from tuition.train.best import Keeps
from tuition.train.change import Change
from tuition.train.folder import RunFolder
from tuition.train.settings import OptimizerSettings, TrainSettings


@dataclass(frozen=True)
class RunContext:
    """What a recipe needs to know about the run that it works for."""

    settings: TrainSettings
    folder: RunFolder
    workspace: Workspace
    registry: Registry
    """Where a base model is found by its name."""
    progress: Progress
    device: torch.device
    precision: Precision
    pool: ThreadPool
    """Threads of the step; an evaluation may use them too. One thread while data is prepared."""
    group: Group
    """This member takes its own part of each batch: see `Group.rank`."""


class Batch(Protocol):
    """Items of one forward pass."""

    @property
    def num_units(self) -> int:
        """Units whose loss is summed: taught tokens, images, windows."""
        ...

    def shares(self, count: int) -> Sequence[Any]:
        """The items in at most `count` batches, which are computed at the same time."""
        ...


@dataclass(frozen=True)
class Evaluated:
    """The result of an evaluation."""

    score: Score
    samples: tuple[str, ...] = ()
    """Output of the model, for people."""
    warning: str | None = None
    """A warning that the model is of little use, with the reason; None: no warning."""
    further: tuple[Score, ...] = ()
    """Other scores of the same weights, recorded with the model."""
    changes: tuple[Change, ...] = ()
    """At the end, for a task that compares: the same measures before training and now."""


B = TypeVar("B", bound=Batch)
EvaluationKind = Literal["before", "interim", "final"]


class TrainingTask(Protocol[B]):
    """A model and what it is trained on, built for one run."""

    @property
    def model(self) -> nn.Module:
        """Matrices under `layers.` are updated by Muon if it is chosen, all others by AdamW."""
        ...

    @property
    def num_evaluations(self) -> int:
        """Spread evenly over the run, the last at its end; 0: only at the end."""
        ...

    @property
    def epoch_batches(self) -> float:
        """Microbatches of one pass over the data."""
        ...

    @property
    def optimizer(self) -> OptimizerSettings:
        """What is taken for optimizer settings that are left out; none of the first four is None."""
        ...

    @property
    def keeps(self) -> Keeps:
        """Which weights become the model: those with the best score of an evaluation, or the last."""
        ...

    @property
    def compares(self) -> bool:
        """Whether the first weights are evaluated too ("before"), since they are a model already."""
        ...

    @property
    def digests(self) -> Mapping[str, str]:
        """What must be the same when the run is resumed, like the digest of the `corpus`."""
        ...

    @property
    def split(self) -> str:
        """What was held out and how, one line."""
        ...

    def batch(self, step: int) -> B:
        """The batch of a microbatch counted from 0; the same number gives the same batch."""
        ...

    def loss(self, batch: B, scale: float) -> Tensor:
        """The loss summed over the units of `batch`, multiplied by `scale`; a scalar with gradient."""
        ...

    def flops(self, batch: B) -> int:
        """Model FLOPs of one batch, forward and backward."""
        ...

    def evaluate(self, kind: EvaluationKind) -> Evaluated:
        """Score held-out items: quickly during the run, all of them before it and at the end."""
        ...

    def lineage(self) -> Lineage:
        """The lineage that the recipe knows; the run adds its own part."""
        ...

    def write(self, folder: Path, manifest: Mapping[str, Any]) -> object:
        """Publish `folder`, which does not exist yet, in one durable step; `manifest` goes into its
        `tuition.json`, with the digest of the weights."""
        ...


class Recipe(Protocol):
    """A way of training, with its settings."""

    name: str
    """As in the table of recipes and in the books."""
    unit: str
    """What is counted, in the singular: token, image, window."""
    settings: Any
    """A frozen dataclass of plain values; stored with the run."""

    def check(self, registry: Registry) -> None:
        """Refuse what cannot be trained before a run is recorded. Raises: SettingsError, DataError,
        NotFoundError."""
        ...

    def prepare(self, context: RunContext) -> Any:
        """Read and prepare the data; the result is passed to `build`. Billed as `data`."""
        ...

    def max_shares(self, data: Any) -> int:
        """Most parts that a batch can be cut into: its rows."""
        ...

    def build(self, context: RunContext, data: Any) -> TrainingTask[Any]:
        """The model and its batches; random numbers are seeded. Raises: CapacityError. Billed as `load`."""
        ...
