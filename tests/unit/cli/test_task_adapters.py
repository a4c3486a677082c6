"""An adapter is asked as itself, not as its base, and its results are kept under its own name."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from adapter_workspace import fill
from tuition.books.books import Books, open_books
from tuition.cli.task_runs import TaskRuns, before_and_after, keep
from tuition.core.progress import SilentProgress
from tuition.core.workspace import Workspace
from tuition.desk.engine import Engine
from tuition.engine.settings import EngineSettings
from tuition.evals.task_file import Header, Task, read_task, task_text
from tuition.ledger.statements import of_model, request_receipts
from tuition.registry.registry import Registry
from tuition.spec.machine import detect_machine

SETTINGS = EngineSettings(device="cpu", threads=1, precision="float32", cache_bytes="8MiB")
PROMPTS = ["to be or", "that is the", "not to be"]
NAMES = ("base", "support", "legal")


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[TaskRuns]:
    torch.set_num_threads(1)
    workspace = Workspace(tmp_path / "home").create()
    with open_books(workspace) as books:
        fill(workspace, books, NAMES[1:])
        yield TaskRuns(workspace, books, detect_machine(), SETTINGS, SilentProgress())


def replies(runs: TaskRuns, books: Books, name: str) -> list[str]:
    """In another way than by a task."""
    with Engine(name, settings=SETTINGS, workspace=runs.workspace, books=books) as engine:
        return [reply.text for reply in engine.generate(PROMPTS, max_tokens=8, temperature=0.0)]


def sayings(folder: Path, wanted: list[str]) -> Task:
    """Right is what one of the models says."""
    items = [{"prompt": prompt, "target": reply} for prompt, reply in zip(PROMPTS, wanted, strict=True)]
    path = folder / "sayings.jsonl"
    path.write_text(task_text(Header("sayings", "exact", max_tokens=8), items), encoding="utf-8")
    return read_task(path)


def test_an_adapter_is_asked_as_itself_and_kept_under_its_name(runs: TaskRuns, tmp_path: Path) -> None:
    said = {name: replies(runs, runs.books, name) for name in NAMES}
    assert len({tuple(texts) for texts in said.values()}) == 3, "else an adapter is not told from its base"
    task = sayings(tmp_path, said["support"])
    found = {name: runs.results(name, [task])[0] for name in NAMES}
    for name, result in found.items():
        assert result.model == f"{name}@1"
        assert [item.reply for item in result.items] == said[name]
        version = Registry(runs.workspace, runs.books).get(name)
        (score,) = Registry(runs.workspace, runs.books).scores(version)
        assert score.value == (1.0 if name == "support" else 0.0)
        receipts = request_receipts(runs.books, *of_model(name), limit=3)
        assert sum(item.cost_nusd or 0 for item in result.items) == sum(r.total.cost_nusd for r in receipts)
    assert len(list(runs.workspace.evaluations.glob("*.jsonl"))) == 3
    keep(tmp_path / "kept.jsonl", list(found.values()))
    kept = [json.loads(line)["model"] for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert kept == [f"{name}@1" for name in NAMES for _ in PROMPTS]


def test_before_and_after_is_of_base_and_adapter(runs: TaskRuns, tmp_path: Path) -> None:
    task = sayings(tmp_path, replies(runs, runs.books, "support"))
    _, row = before_and_after(runs, "base", "support", [task]).splitlines()
    cells = row.split()
    assert (cells[0], cells[1], cells[2]) == ("sayings", "3", "0.0")
    assert "100.0" in cells
    assert cells[-1] == "0.2500"  # three items that only the adapter has right: 2 / 2^3
