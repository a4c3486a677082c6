"""One of two processes that train together: `group_member.py <rank> <folder>`.

Both read the text in the folder and meet through a file there. Each prints, as one line of JSON, its losses,
what it skipped, and a digest of its weights. Member 1 has a clock of its own that would end sooner, and its
loss is no number in step 9.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tuition.books.books import open_books
from tuition.core.progress import SilentProgress
from tuition.core.records import StepRecord, Window
from tuition.core.workspace import open_workspace
from tuition.data.loader import Batch
from tuition.data.settings import DataSettings
from tuition.model.digest import weights_digest
from tuition.registry.registry import Registry
from tuition.runtime.device import Precision
from tuition.runtime.group import Group, ProcessGroup
from tuition.runtime.thread_pool import NO_POOL
from tuition.train.folder import RunFolder
from tuition.train.loop import fit
from tuition.train.recipe import RunContext
from tuition.train.recipes.pretrain import Pretrain, PretrainTask
from tuition.train.recipes.pretrain_settings import PretrainSettings, ShapeSettings
from tuition.train.schedule import StepSpan
from tuition.train.settings import TrainSettings
from tuition.train.state import TrainState

STEPS, RUINED = 12, 9


class NoTime:
    """A meter for which nothing takes any time."""

    def start(self) -> int:
        return 0

    def stop(self, start_ns: int) -> Window:
        return Window(start_ns, 0, None, None, 0)


class Ruined:
    """A task whose loss is no number in one step."""

    def __init__(self, task: PretrainTask, state: TrainState) -> None:
        self.task, self.state = task, state

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def loss(self, batch: Batch, scale: float) -> Tensor:
        factor = float("nan") if self.state.step == RUINED - 1 else 1.0
        return self.task.loss(batch, scale) * factor


def train(folder: Path, rows: int, group: Group, steps: int = STEPS, ruin: bool = False) -> dict[str, Any]:
    """Train a tiny decoder on this member's share of the batches."""
    torch.set_num_threads(1)
    settings = TrainSettings(steps=steps, threads=1)
    taught = PretrainSettings(
        data=DataSettings(paths=(folder / "text.txt",), num_workers=1),
        vocab_size=300,
        batch_size=rows,
        seq_len=16,
        shape=ShapeSettings(hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, mlp_size=48),
    )
    workspace = open_workspace(folder / f"home{group.rank}").create()
    recipe = Pretrain(taught)
    with open_books(workspace) as books:
        context = RunContext(
            settings, RunFolder(workspace.runs / "run"), workspace, Registry(workspace, books),
            SilentProgress(), torch.device("cpu"), Precision(torch.float32, "a test"), NO_POOL, group,
        )  # fmt: skip
        torch.manual_seed(0)
        task = recipe.build(context, recipe.prepare(context))
    state = TrainState.fresh(task.model, settings, context.device, context.precision, NO_POOL, group)
    trained: Any = Ruined(task, state) if ruin else task
    records: list[StepRecord] = list(fit(state, trained, settings, StepSpan(steps), NoTime()))
    return {
        "losses": [record.loss for record in records],
        "units": [record.num_units for record in records],
        "lr": [record.lr for record in records],
        "skipped": [step for step, _ in state.guard.skipped],
        "digest": weights_digest(task.model.named_parameters()),
    }


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    group = ProcessGroup(torch.device("cpu"))
    found = [train(folder, 4, group, STEPS if rank == 0 else 5)]
    found.append(train(folder, 4, group, ruin=rank == 1))
    print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
