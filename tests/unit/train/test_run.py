"""A whole run in one process: text in, a registered and billed model out, also when things go wrong."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tuition.books.books import open_books
from tuition.core.errors import BusyError, CapacityError, DataError, SettingsError
from tuition.core.settings import read_table, to_table
from tuition.core.workspace import open_workspace
from tuition.data.loader import Batch
from tuition.data.settings import DataSettings
from tuition.ledger import training
from tuition.ledger.rates import Rate
from tuition.ledger.statements import training_receipt
from tuition.model.load import load_decoder
from tuition.registry.registry import Registry
from tuition.runtime.checkpoints import load_latest
from tuition.spec.machine import detect_machine
from tuition.train import session as session_module
from tuition.train.guard import DivergedError
from tuition.train.recipe import RunContext
from tuition.train.recipes import pretrain
from tuition.train.recipes.demo import demo_recipe, demo_settings
from tuition.train.recipes.pretrain import Pretrain
from tuition.train.recipes.pretrain_settings import EvaluationSettings, PretrainSettings, ShapeSettings
from tuition.train.run import Host, run_training
from unit.train.home import At, Clock, Hasty, Home, TimedTask, interrupt


def test_a_run_ends_in_a_registered_model_with_its_bill_and_lineage(home: Home) -> None:
    result = home.run()
    assert (result.status, result.num_steps, result.version.reference) == ("finished", 8, "tiny@1")
    assert [probe.step for probe in result.probes] == [4, 8]
    assert result.not_exact == result.alarms == ()
    (row,) = home.rows()
    assert (row["status"], row["num_steps"], row["num_tokens"]) == ("finished", 8, 8 * 32)
    assert row["num_parameters"] == result.num_parameters
    with open_books(home.workspace) as books:
        version = Registry(home.workspace, books).get("tiny")
        (evaluation,) = Registry(home.workspace, books).scores(version)
    assert replace(evaluation, created_unix_ns=None) == result.probes[-1].score
    assert version.lineage.run_id == result.run_id
    stored = read_table(result.folder / "settings.toml")
    assert stored == {"recipe": "pretrain"} | to_table(home.settings) | to_table(home.taught)
    header = json.loads((result.folder / "header.json").read_text())
    assert {"threads", "torch", "cpu_flags"} <= header["machine"].keys()
    assert json.loads((result.folder / "result.json").read_text())["status"] == "finished"


def test_the_model_takes_its_lineage_and_its_bill_along(home: Home, tmp_path: Path) -> None:
    """In tuition.json; so a copy in another workspace, whose books know nothing of the run, has them too."""
    made = home.run().version
    bill = json.loads((made.path / "tuition.json").read_text())["bill"]
    with open_books(home.workspace) as books:
        paid = training_receipt(books, str(made.lineage.run_id)).total
    assert 0 < bill["wall_ns"] <= paid.wall_ns
    assert 0 < bill["cost_nusd"] <= paid.cost_nusd
    assert (bill["energy_method"] is None) == (bill["energy_uj"] is None)
    rate = Rate.from_machine(detect_machine())
    assert (bill["rate"]["nusd_per_hour"], bill["rate"]["nusd_per_kwh"]) == (
        rate.nusd_per_hour, rate.nusd_per_kwh,
    )  # fmt: skip
    assert bill["rate"]["provenance"] in ("measured", "catalogue", "assumed", "user")
    assert bill["rate"]["source"]
    elsewhere = open_workspace(tmp_path / "elsewhere").create()
    with open_books(elsewhere) as books:
        copied = Registry(elsewhere, books).add("copy", made.path, digest=made.digest)
    assert copied.lineage == replace(made.lineage, source=str(made.path), bill=bill)


def test_the_saved_model_is_the_one_that_was_evaluated(home: Home) -> None:
    result = home.run()
    checkpoint = load_latest(result.folder / "checkpoints")
    assert checkpoint is not None
    saved = load_decoder(result.version.path, torch.float32, torch.device("cpu"))
    for name, value in saved.named_parameters():
        assert torch.equal(value, checkpoint.tensors[f"model/{name}"])


def test_the_same_settings_give_the_same_weights(home: Home) -> None:
    assert home.run().version.digest == home.run().version.digest
    assert home.run(seed=1).version.digest != home.run().version.digest


@pytest.mark.usefixtures("unhurried")
def test_a_budget_is_kept(home: Home) -> None:
    """Steps of a quarter of a second and an evaluation of one: 2 + 1 + 0 quarters are done when the third
    step, at the mean pace of 1.5 quarters, would end after the fourth."""
    result = home.run_timed(Clock(), {"step_s": 0.25, "look_s": 0.25}, budget="1s")
    assert [(probe.step, probe.seconds) for probe in result.probes] == [(2, 0.75), (2, 1.0)]
    assert result.not_exact == ()  # nothing was resumed


def test_a_budget_has_every_step_that_fits(home: Home) -> None:
    clock = Clock()
    assert home.run_timed(clock, {"step_s": 0.25}, budget="1s").num_steps == 4
    assert clock.now == 1.0


def test_a_budget_too_short_for_one_step_is_refused_with_both_numbers(home: Home) -> None:
    with pytest.raises(
        SettingsError, match=r"budget: got '1s', wanted more than \d.* s, which one step needs"
    ):
        home.run_timed(Hasty(), {}, budget="1s")
    (row,) = home.rows()
    assert (row["status"], row["num_steps"]) == ("failed", 1)  # the step that was measured is billed


def test_a_signal_before_the_first_step_is_no_complaint_about_the_budget(home: Home) -> None:
    clock = Hasty()
    clock.signal_at = 3  # the first two begin the span and the session
    with pytest.raises(KeyboardInterrupt):
        home.run_timed(clock, {}, budget="1s")
    assert home.rows()[0]["status"] == "stopped"


@pytest.mark.usefixtures("unhurried")
def test_a_stopped_run_has_the_rest_of_its_budget_its_last_evaluation_not_counted(home: Home) -> None:
    clock, times = Clock(), {"step_s": 1.0, "look_s": 2.0}
    only_last = replace(home.taught.evaluation, times=0)
    stopped = home.run_timed(clock, times, (At(5, interrupt),), budget="10s", evaluation=only_last)
    assert (stopped.status, stopped.num_steps) == ("stopped", 5)
    resumed = home.run_timed(clock, times, resume="newest", budget="10s", evaluation=only_last)
    assert (resumed.status, resumed.num_steps) == ("finished", 10)


def test_a_model_that_does_not_fit_is_refused_before_it_is_made(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "free_bytes", lambda device: 10_000)
    monkeypatch.setattr(pretrain, "Decoder", lambda *given: pytest.fail("it was made"))
    with pytest.raises(CapacityError, match=r"10,000 are available; lower shape\.hidden_size") as caught:
        home.run()
    assert caught.value.need > 10_000


def test_a_full_disk_is_an_alarm_and_training_goes_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """C5: the second checkpoint cannot be written; the first and third can."""
    real, calls = session_module.save_checkpoint, []

    def sometimes(folder: Path, step: int, *rest, **named) -> Path:
        calls.append(step)
        if step == 6:
            raise OSError(28, "No space left on device")
        return real(folder, step, *rest, **named)

    monkeypatch.setattr(session_module, "save_checkpoint", sometimes)
    result = home.run()
    assert result.status == "finished"
    assert calls == [3, 6, 8]
    (alarm,) = result.alarms
    assert "No space left" in alarm
    assert any(line.startswith("ALARM") for line in home.heard.lines)


def test_a_bill_that_cannot_be_saved_is_one_alarm_and_the_whole_is_billed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Books that are busy at each checkpoint; at the end they are free again."""

    def busy(bill: training.TrainingBill) -> None:
        raise BusyError("the books are in use by another program", retry_after_s=1)

    monkeypatch.setattr(training.TrainingBill, "save", busy)
    (alarm,) = home.run().alarms
    assert alarm.startswith("step 3: the bill")
    assert (home.rows()[0]["status"], home.rows()[0]["num_steps"]) == ("finished", 8)


class Ruined(TimedTask):
    def loss(self, batch: Batch, scale: float) -> torch.Tensor:
        return self.task.loss(batch, scale) * float("nan")


class Ruinous(Pretrain):
    def build(self, context: RunContext, data: Any) -> Any:
        return Ruined(super().build(context, data), Clock(), 0.0, 0.0, 0)


def test_a_run_that_diverges_is_billed_as_failed(home: Home) -> None:
    with open_books(home.workspace) as books, pytest.raises(DivergedError):
        run_training(
            home.settings,
            Ruinous(home.taught),
            Host(home.workspace, books, detect_machine(), home.heard),
        )
    (row,) = home.rows()
    assert row["status"] == "failed"
    assert "DivergedError" in row["reason"]


def test_text_that_is_not_there_leaves_no_run(home: Home) -> None:
    with pytest.raises(DataError, match="nowhere"):
        home.run(data=DataSettings(paths=(Path("/nowhere.txt"),)))
    assert home.rows() == []
    assert not list(home.workspace.runs.glob("*"))


def test_a_given_tokenizer_is_used(home: Home) -> None:
    first = home.run()
    second = home.run(tokenizer=first.version.path)
    assert second.version.lineage.tokenizer_digest == first.version.lineage.tokenizer_digest


def test_a_run_can_begin_with_induction_heads(home: Home) -> None:
    shape = ShapeSettings(hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=2, mlp_size=24)
    plain, begun, auto = (home.run(shape=shape, first_weights=how) for how in ("random", "induction", "auto"))
    assert plain.version.digest != begun.version.digest == auto.version.digest
    for run, became in ((plain, "random"), (begun, "induction"), (auto, "induction"), (home.run(), "random")):
        manifest = json.loads((run.version.path / "tuition.json").read_text())
        assert run.version.lineage.first_weights == manifest["lineage"]["first_weights"] == became
    assert begun.num_parameters == plain.num_parameters


def test_neither_budget_nor_steps_is_refused(home: Home) -> None:
    with pytest.raises(SettingsError, match="a budget like 4min"):
        home.run(steps=None)


def test_the_demo_has_settings_for_both_corpora() -> None:
    for corpus in ("shakespeare", "stdlib"):
        assert demo_settings(corpus, "4min").budget_s == 240
        assert demo_recipe(corpus).data.demo == corpus


def open_sizes(home: Home) -> PretrainSettings:
    """Nothing is named but the text."""
    evaluation = EvaluationSettings(times=1, sample_tokens=0)
    return PretrainSettings(data=home.taught.data, evaluation=evaluation)


@pytest.mark.usefixtures("unhurried")
def test_sizes_that_are_left_open_follow_the_budget_and_stay_for_a_resume(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that has become a thousand times quicker, and with a longer budget."""
    home.taught, clock = open_sizes(home), Clock()
    (path,) = home.taught.data.paths
    path.write_text("".join(f"{number} roses of the king\n" for number in range(6_000)))  # room for more
    monkeypatch.setattr(pretrain, "product_flops_per_s", lambda *given: 1e9)
    stopped = home.run_timed(clock, {"step_s": 1.0}, (At(2, interrupt),), budget="4s")
    (said,) = [line for line in home.heard.lines if line.startswith("sizes for 4")]
    assert "2 layers, 64 wide, 2 heads, vocabulary 512" in said
    monkeypatch.setattr(pretrain, "product_flops_per_s", lambda *given: 1e12)
    resumed = home.run_timed(clock, {"step_s": 1.0}, resume="newest", budget="8s")
    assert (resumed.run_id, resumed.num_parameters) == (stopped.run_id, stopped.num_parameters)
    assert resumed.num_steps == 8


def test_what_is_named_stays_whatever_the_budget(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "product_flops_per_s", lambda *given: 1e15)
    by_steps = home.run()
    by_budget = home.run_timed(Clock(), {"step_s": 1.0}, budget="2s")
    assert by_budget.num_parameters == by_steps.num_parameters
    assert not any(line.startswith("sizes for") for line in home.heard.lines)


def test_a_model_that_was_taught_too_briefly_is_said_to_be(home: Home) -> None:
    brief, longer = home.run(steps=1), home.run(steps=150)
    assert brief.warning is not None
    assert brief.warning.startswith("taught too briefly to be of use: ")
    assert longer.warning is None
