"""A whole run in one process: text in, a registered and billed model out, also when things go wrong."""

import json
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from sqlalchemy import select

from tuition.books.books import Books, open_books
from tuition.books.schema import runs
from tuition.core.errors import BusyError, CapacityError, DataError, NotFoundError, SettingsError
from tuition.core.lock import FileLock
from tuition.core.progress import SilentProgress
from tuition.core.records import Score
from tuition.core.settings import read_settings, to_toml
from tuition.core.workspace import Workspace, open_workspace
from tuition.data.settings import DataSettings
from tuition.ledger import training
from tuition.ledger.meter import ModelledMeter
from tuition.ledger.rates import Rate
from tuition.ledger.statements import training_receipt
from tuition.model.load import load_decoder
from tuition.registry.registry import Registry
from tuition.runtime.checkpoints import load_latest
from tuition.spec.machine import detect_machine
from tuition.train import run as run_module
from tuition.train import session as session_module
from tuition.train.folder import RunFolder, find_run
from tuition.train.guard import DivergedError
from tuition.train.recipes import pretrain
from tuition.train.recipes.demo import demo_settings
from tuition.train.run import TrainResult, run_training
from tuition.train.schedule import BudgetSpan
from tuition.train.settings import CheckpointSettings, EvaluationSettings, ShapeSettings, TrainSettings


class Heard(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Home:
    """A workspace with a text in it."""

    def __init__(self, root: Path) -> None:
        text = root / "text.txt"
        text.write_text("".join(f"the {word} of the king\n" for word in ("rose", "thorn", "crown")) * 200)
        self.workspace: Workspace = open_workspace(root / "home").create()
        self.settings = TrainSettings(
            name="tiny",
            data=DataSettings(paths=(text,), num_workers=1),
            vocab_size=280,
            steps=8,
            batch_size=2,
            seq_len=16,
            threads=1,
            shape=ShapeSettings(hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, mlp_size=24),
            checkpoints=CheckpointSettings(every_steps=3),
            evaluation=EvaluationSettings(times=2, probe_bytes=200, sample_tokens=4),
        )
        self.heard = Heard()

    def run(self, resume: RunFolder | str | None = None, other_settings="refuse", **changes) -> TrainResult:
        with open_books(self.workspace) as books:
            return run_training(
                replace(self.settings, **changes),
                self.workspace,
                books,
                detect_machine(),
                self.heard,
                resume=resume,
                other_settings=other_settings,
            )

    def rows(self) -> list:
        def read(books: Books) -> list:
            return list(
                books.read(
                    lambda c: c.execute(select(runs).order_by(runs.c.created_unix_ns)).mappings().all()
                )
            )

        with open_books(self.workspace) as books:
            return read(books)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


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
    assert read_settings(TrainSettings, result.folder / "settings.toml") == home.settings
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


class Clock:
    """Seconds that pass only when told to: in steps, in looks at held-out text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, step_s: float = 0.0, look_s: float = 0.0) -> None:
        self.now, self.num_steps, self.dies_in_step = 0.0, 0, 0
        loss, score = pretrain.next_token_loss, session_module.Session._score

        def slow_loss(*given) -> torch.Tensor:
            self.num_steps, self.now = self.num_steps + 1, self.now + step_s
            if self.num_steps == self.dies_in_step:
                raise Killed
            return loss(*given)

        def slow_score(*given) -> Score:
            self.now += look_s
            return score(*given)

        monkeypatch.setattr(pretrain, "next_token_loss", slow_loss)
        monkeypatch.setattr(session_module.Session, "_score", slow_score)
        monkeypatch.setattr(run_module, "BudgetSpan", partial(BudgetSpan, clock=self))
        monkeypatch.setattr(
            run_module, "open_meter", lambda machine: ModelledMeter(machine, lambda: round(self.now * 1e9))
        )
        monkeypatch.setattr(training, "SAVE_EVERY_S", 3_600.0)  # the bill is saved when the test says so

    def __call__(self) -> float:
        return self.now


class Killed(BaseException):
    """As by kill -9, where the test also keeps the bill from being closed."""


def test_a_budget_is_kept(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a quarter of a second and a look of one: 2 + 1 + 0 quarters are done when the third step,
    at the mean pace of 1.5 quarters, would end after the fourth."""
    Clock(monkeypatch, step_s=0.25, look_s=0.25)
    result = home.run(steps=None, budget="1s")
    assert [(probe.step, probe.seconds) for probe in result.probes] == [(2, 0.75), (2, 1.0)]
    assert result.not_exact == ()  # nothing was resumed


def test_a_budget_has_every_step_that_fits(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, step_s=0.25)
    assert home.run(steps=None, budget="1s").num_steps == clock.num_steps == 4
    assert clock.now == 1.0


class Hasty(Clock):
    """Two seconds are gone each time one looks; a signal may come at one of the first looks."""

    looks, signal_at = 0, 0

    def __call__(self) -> float:
        self.looks, self.now = self.looks + 1, self.now + 2.0
        if self.looks == self.signal_at:
            signal.raise_signal(signal.SIGINT)
        return self.now


def test_a_budget_too_short_for_one_step_is_refused_with_both_numbers(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hasty(monkeypatch)
    with pytest.raises(
        SettingsError, match=r"budget: got '1s', wanted more than \d.* s, which one step needs"
    ):
        home.run(steps=None, budget="1s")
    (row,) = home.rows()
    assert (row["status"], row["num_steps"]) == ("failed", 1)  # the step that was measured is billed


def test_a_signal_before_the_first_step_is_no_complaint_about_the_budget(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hasty(monkeypatch).signal_at = 2
    with pytest.raises(KeyboardInterrupt):
        home.run(steps=None, budget="1s")
    assert home.rows()[0]["status"] == "stopped"


def test_a_killed_run_has_what_is_left_of_its_budget(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of one second, a checkpoint after the third, killed in the sixth: 5 of 10 s are in the bill."""
    clock = Clock(monkeypatch, step_s=1.0)
    clock.dies_in_step = 6
    real = session_module.Session._look_and_save

    def save_the_bill_too(self, record) -> None:
        real(self, record)
        self.bill.save()

    with monkeypatch.context() as patch:
        patch.setattr(session_module.Session, "_look_and_save", save_the_bill_too)
        patch.setattr(training.TrainingBill, "close", lambda *given: None)
        with pytest.raises(Killed):
            home.run(steps=None, budget="10s")
    resumed = home.run(steps=None, budget="10s", resume="newest")
    assert any(line.startswith("goes on after step 3, ") for line in home.heard.lines)
    assert resumed.seconds == 9.0  # a step more, at the mean pace of 9 s for 7 steps, would end after 10 s
    assert resumed.num_steps == 7


def test_a_stopped_run_has_the_rest_of_its_budget_its_last_look_not_counted(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch, step_s=1.0, look_s=2.0)
    only_last = replace(home.settings.evaluation, times=0)
    real = session_module.Session._look_and_save

    def interrupt(self, record) -> None:
        real(self, record)
        if record.step == 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(session_module.Session, "_look_and_save", interrupt)
        assert home.run(steps=None, budget="10s", evaluation=only_last).num_steps == 5
    resumed = home.run(steps=None, budget="10s", evaluation=only_last, resume="newest")
    assert (resumed.status, resumed.num_steps) == ("finished", 10)


def test_a_model_that_does_not_fit_is_refused_before_it_is_made(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "free_bytes", lambda device: 10_000)
    monkeypatch.setattr(run_module.pretrain, "build", lambda *given: pytest.fail("it was made"))
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


def test_a_run_that_diverges_is_billed_as_failed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pretrain, "next_token_loss", lambda model, batch, scale: model.norm.weight.sum() * float("nan")
    )
    with pytest.raises(DivergedError):
        home.run()
    (row,) = home.rows()
    assert row["status"] == "failed"
    assert "DivergedError" in row["reason"]


def test_ctrl_c_keeps_the_model_and_resume_ends_like_an_unbroken_run(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = home.run()
    real = session_module.Session._look_and_save

    def interrupt(self, record) -> None:
        real(self, record)
        if record.step == 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(session_module.Session, "_look_and_save", interrupt)
        stopped = home.run()
    assert (stopped.status, stopped.num_steps) == ("stopped", 5)
    assert home.rows()[-1]["status"] == "stopped"
    resumed = home.run(resume="newest")
    assert resumed.run_id == stopped.run_id
    assert resumed.status == "finished"
    assert resumed.version.digest == whole.version.digest
    assert home.rows()[-1]["status"] == "finished"


def test_resume_with_nothing_to_resume_says_so_and_begins(home: Home) -> None:
    assert home.run(resume="newest").status == "finished"
    assert "nothing to resume, a new run begins" in home.heard.lines
    assert len(home.rows()) == 1


def leave_unfinished(home: Home) -> TrainResult:
    result = home.run()
    (result.folder / "result.json").unlink()
    return result


def test_resume_with_other_settings_is_refused_with_both_values(home: Home) -> None:
    leave_unfinished(home)
    with pytest.raises(SettingsError, match=r"batch_size: got 3, wanted 2 as in tiny-"):
        home.run(resume="newest", batch_size=3)
    assert home.run(resume="newest", other_settings="begin anew", batch_size=3).status == "finished"
    assert any("has other settings (batch_size)" in line for line in home.heard.lines)


def test_resume_with_other_text_is_refused_or_begins_anew(home: Home) -> None:
    first = leave_unfinished(home)
    (before,) = home.rows()
    (path,) = home.settings.data.paths
    path.write_text("another play of another king\n" * 500)
    with pytest.raises(
        SettingsError, match=r"corpus: got 'digest .*as the run that is resumed began; or leave"
    ):
        home.run(resume="newest")
    (row,) = home.rows()
    assert (row["status"], row["reason"][:19]) == ("stopped", "corpus: got 'digest"), "no step of it failed"
    assert row["corpus_digest"] == before["corpus_digest"] is not None
    anew = home.run(resume="newest", other_settings="begin anew")
    assert anew.status == "finished"
    assert anew.run_id != first.run_id
    said = f"{first.run_id} is unfinished and its text has changed"
    assert any(line.startswith(said) for line in home.heard.lines)


def test_a_run_killed_before_its_first_checkpoint_knows_its_text_too(home: Home) -> None:
    """Its tokenizer was learned from that text, and its time is billed for it."""
    first = leave_unfinished(home)
    shutil.rmtree(first.folder / "checkpoints")
    (path,) = home.settings.data.paths
    path.write_text("another play of another king\n" * 500)
    assert home.run(resume="newest", other_settings="begin anew").run_id != first.run_id


def stop_after(home: Home, steps: int, **changes) -> TrainResult:
    """A run that has a checkpoint and is not finished."""
    result = home.run(steps=steps, **changes)
    (result.folder / "result.json").unlink()
    settings = replace(home.settings, **changes)
    (result.folder / "settings.toml").write_text(to_toml(settings))  # as if more steps had been asked for
    return result


def test_a_run_without_a_checkpoint_never_hides_one_that_has(home: Home) -> None:
    """The same command was started again and interrupted while it prepared."""
    killed = stop_after(home, 3)
    RunFolder(home.workspace.runs / "tiny-29990101-000000-aaaa").create(home.settings)
    RunFolder(home.workspace.runs / "tiny-29990102-000000-bbbb").create(
        replace(home.settings, data=DataSettings(paths=(Path("/mistyped"),)))
    )
    assert find_run(home.workspace).run_id == find_run(home.workspace, "tiny").run_id == killed.run_id
    result = home.run(resume="newest")
    assert (result.run_id, result.num_steps) == (killed.run_id, 8)
    assert {f"resuming {killed.run_id}", "goes on after step 3, exactly"} <= set(home.heard.lines)


def test_the_newest_run_with_these_settings_is_taken(home: Home) -> None:
    first, _ = stop_after(home, 3), stop_after(home, 3, batch_size=3)
    assert home.run(resume="newest").run_id == first.run_id


def test_a_run_is_found_by_its_id_or_its_model_and_a_finished_or_unknown_one_is_refused(home: Home) -> None:
    done, first = home.run(), stop_after(home, 3, name="other")
    for wanted in (None, "other", first.run_id):
        assert find_run(home.workspace, wanted).run_id == first.run_id
    with pytest.raises(SettingsError, match="this one is finished"):
        find_run(home.workspace, done.run_id)
    for wanted in ("tiny", "nobody", "../runs", ""):
        with pytest.raises(NotFoundError, match=f"known: {first.run_id}"):
            find_run(home.workspace, wanted)
    with pytest.raises(SettingsError, match=r"batch_size: got 3, wanted 2 as in other-"):
        home.run(resume=find_run(home.workspace, "other"), name="other", batch_size=3)


def test_text_that_is_not_there_leaves_no_run(home: Home) -> None:
    with pytest.raises(DataError, match="nowhere"):
        home.run(data=DataSettings(paths=(Path("/nowhere.txt"),)))
    assert home.rows() == []
    assert not list(home.workspace.runs.glob("*"))


def test_the_receipt_counts_every_token_that_the_model_saw(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed behind the checkpoint of step 6 and before the bill was saved, which knows of step 3."""
    with monkeypatch.context() as patch:
        patch.setattr(training, "SAVE_EVERY_S", 3_600.0)
        real, saves = training.TrainingBill.save, []

        def die_at_the_second(bill: training.TrainingBill) -> None:
            saves.append(bill)
            if len(saves) == 2:
                raise Killed
            real(bill)

        patch.setattr(training.TrainingBill, "save", die_at_the_second)
        patch.setattr(training.TrainingBill, "close", lambda *given: None)
        with pytest.raises(Killed):
            home.run()
    assert home.rows()[0]["num_steps"] == 3
    result = home.run(resume="newest")
    (row,) = home.rows()
    assert (row["num_steps"], row["num_tokens"], row["redone_tokens"]) == (8, 8 * 32, 0)
    assert row["num_tokens"] == result.num_tokens


def test_two_processes_do_not_teach_in_one_run(home: Home) -> None:
    with FileLock(leave_unfinished(home).folder / "run.lock"), pytest.raises(BusyError):
        home.run(resume="newest")


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
        settings = demo_settings(corpus, "4min")
        assert settings.budget_s == 240
        assert settings.data.demo == corpus
