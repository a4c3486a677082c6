"""A recipe of the test's own goes through the whole run: trained, evaluated, resumed, billed, registered."""

import json
import re
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sqlalchemy import select

from tuition.books.books import open_books
from tuition.books.schema import run_costs
from tuition.core.errors import SettingsError
from tuition.core.progress import SilentProgress
from tuition.ledger.render import render
from tuition.ledger.statements import training_receipt
from tuition.runtime.device import Precision
from tuition.spec.machine import detect_machine
from tuition.train.folder import RunFolder
from tuition.train.listeners import Listener
from tuition.train.recipes.pretrain import Pretrain
from tuition.train.run import Host, TrainResult, run_training
from tuition.train.settings import CheckpointSettings, OptimizerSettings, TrainSettings
from tuition.train.state import TrainState
from unit.train.home import At, Home, interrupt
from unit.train.toy import Toy, ToySettings

SETTINGS = TrainSettings(
    name="toy",
    steps=60,
    threads=1,
    precision="float32",
    optimizer=OptimizerSettings(lr=2e-2),
    checkpoints=CheckpointSettings(every_steps=10),
)


def run(home: Home, listeners: tuple[Listener, ...] = (), **how: Any) -> TrainResult:
    with open_books(home.workspace) as books:
        host = Host(home.workspace, books, detect_machine(), SilentProgress(), listeners)
        return run_training(SETTINGS, Toy(ToySettings()), host, **how)


def test_a_recipe_without_tokens_is_trained_evaluated_and_billed(home: Home) -> None:
    result = run(home)
    assert (result.status, result.num_units, result.unit) == ("finished", 60 * 32, "vector")
    assert [probe.step for probe in result.probes] == [30, 60]
    assert result.probes[-1].score.value > 0.9
    (row,) = home.rows()
    assert (row["recipe"], row["status"], row["num_steps"]) == ("toy", "finished", 60)
    assert (row["num_tokens"], row["unit"], int(row["flops"])) == (60 * 32, "vector", 60 * 32 * 576)
    with open_books(home.workspace) as books:
        query = select(run_costs.c.kind, run_costs.c.cost_nusd).where(run_costs.c.run_id == row["id"])
        costs = dict(books.read(lambda c: c.execute(query).all()))
        receipt = render(training_receipt(books, row["id"]))
    assert re.search(r"vectors +1,920 vectors", receipt)
    assert "vectors per second" in receipt
    assert {"step", "data", "load", "evaluation", "checkpoint"} <= costs.keys()
    assert costs["step"] > 0
    assert result.version.lineage.corpus_digest == "f" * 64
    manifest = json.loads((result.version.path / "tuition.json").read_text())
    assert (manifest["recipe"], manifest["num_vectors"]) == ("toy", 60 * 32)


def test_it_is_resumed_to_the_same_bits(home: Home) -> None:
    whole = run(home)
    stopped = run(home, (At(25, interrupt),))
    assert (stopped.status, stopped.num_steps) == ("stopped", 25)
    resumed = run(home, resume="newest")
    assert (resumed.run_id, resumed.not_exact) == (stopped.run_id, ())
    weights = [load_file(result.version.path / "model.safetensors") for result in (whole, resumed)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_run_of_another_recipe_is_not_resumed(home: Home) -> None:
    stopped = run(home, (At(25, interrupt),))
    with open_books(home.workspace) as books:
        host = Host(home.workspace, books, detect_machine(), SilentProgress())
        with pytest.raises(SettingsError, match="recipe: got 'pretrain', wanted toy, as in toy-"):
            run_training(SETTINGS, Pretrain(home.taught), host, resume=RunFolder(stopped.folder))


def test_a_frozen_base_is_neither_trained_nor_saved_and_buffers_are() -> None:
    """As an adapter needs it."""
    base, added = torch.nn.Linear(4, 4), torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2))
    model = torch.nn.ModuleDict({"base": base.requires_grad_(False), "added": added})
    state = TrainState.fresh(model, SETTINGS, torch.device("cpu"), Precision(torch.float32, "a test"))
    saved = {name.removeprefix("model/") for name in state.tensors() if name.startswith("model/")}
    assert saved == {
        *(f"added.0.{name}" for name in ("weight", "bias")),
        *(f"added.1.{name}" for name in ("weight", "bias")),
        *(f"added.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")),
    }
    assert not any("base" in name for name in state.tensors())
