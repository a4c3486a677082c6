"""A recipe without tokens: a small network learns to tell vectors apart. As long as a recipe has to be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tuition.core.durable import publish_folder, write_json
from tuition.core.records import Score
from tuition.model.digest import weights_digest
from tuition.registry.lineage import Lineage
from tuition.registry.registry import Registry
from tuition.train.best import Keeps
from tuition.train.recipe import Evaluated, EvaluationKind, RunContext
from tuition.train.settings import PRETRAINING


@dataclass(frozen=True)
class ToySettings:
    width: int = 16
    rows: int = 32


@dataclass(frozen=True)
class Vectors:
    inputs: Tensor
    labels: Tensor

    @property
    def num_units(self) -> int:
        return len(self.labels)

    def shares(self, count: int) -> Sequence["Vectors"]:
        parts = zip(self.inputs.chunk(count), self.labels.chunk(count), strict=True)
        return [Vectors(inputs, labels) for inputs, labels in parts]


class ToyTask:
    digests: Mapping[str, str] = {"corpus": "f" * 64}
    split, num_evaluations = "one batch held out", 2
    optimizer, compares, epoch_batches = PRETRAINING, False, 10.0
    keeps: Keeps = "last"

    def __init__(self, settings: ToySettings, context: RunContext) -> None:
        self.settings, self.context = settings, context
        self.model = nn.Sequential(nn.Linear(4, settings.width), nn.ReLU(), nn.Linear(settings.width, 2))

    def batch(self, step: int) -> Vectors:
        group = self.context.group
        number = step * group.size + group.rank
        inputs = torch.randn(self.settings.rows, 4, generator=torch.Generator().manual_seed(number))
        return Vectors(inputs, (inputs.sum(1) > 0).long())

    def loss(self, batch: Vectors, scale: float) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch.inputs), batch.labels, reduction="sum") * scale

    def flops(self, batch: Vectors) -> int:
        return 6 * batch.num_units * 6 * self.settings.width

    @torch.no_grad()
    def evaluate(self, kind: EvaluationKind) -> Evaluated:
        held = self.batch(2**30)
        right = float((self.model(held.inputs).argmax(1) == held.labels).float().mean())
        return Evaluated(Score("sign of a sum", right, None, "of all right", "argmax", held.num_units))

    def lineage(self) -> Lineage:
        return Lineage(corpus_digest=self.digests["corpus"])

    def write(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        def fill(staging: Path) -> None:
            save_file(dict(self.model.state_dict()), staging / "model.safetensors")
            digest = weights_digest(self.model.named_parameters())
            write_json(staging / "tuition.json", {**manifest, "weights_digest": digest})

        publish_folder(folder, fill)


class Toy:
    name, unit = "toy", "vector"

    def __init__(self, settings: ToySettings) -> None:
        self.settings = settings

    def check(self, registry: Registry) -> None: ...
    def prepare(self, context: RunContext) -> None: ...
    def max_shares(self, data: None) -> int:
        return self.settings.rows

    def build(self, context: RunContext, data: None) -> ToyTask:
        return ToyTask(self.settings, context)
