"""A whole run in one process: text in, a registered and billed model out, also when things go wrong."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sqlalchemy import select

from tuition.books.books import Books, open_books
from tuition.books.schema import runs
from tuition.core.errors import BusyError, SettingsError
from tuition.core.lock import FileLock
from tuition.core.progress import SilentProgress
from tuition.core.settings import read_settings
from tuition.core.workspace import Workspace, open_workspace
from tuition.data.settings import DataSettings
from tuition.model.load import load_decoder
from tuition.registry.registry import Registry
from tuition.runtime.checkpoints import load_latest
from tuition.spec.machine import detect_machine
from tuition.train import session as session_module
from tuition.train.guard import DivergedError
from tuition.train.recipes.demo import demo_settings
from tuition.train.run import TrainResult, run_training
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

    def run(self, resume: bool = False, other_settings="refuse", **changes) -> TrainResult:
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
        (evaluation,) = Registry(home.workspace, books).evaluations(version)
    assert evaluation.mean == result.probes[-1].score.mean
    assert version.lineage.run_id == result.run_id
    assert read_settings(TrainSettings, result.folder / "settings.toml") == home.settings
    header = json.loads((result.folder / "header.json").read_text())
    assert {"threads", "torch", "cpu_flags"} <= header["machine"].keys()
    assert json.loads((result.folder / "result.json").read_text())["status"] == "finished"


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


def test_a_budget_is_kept(home: Home) -> None:
    result = home.run(steps=None, budget="1s")
    assert result.num_steps > 3
    assert result.probes[-2].seconds < 1.0
    assert result.not_exact == ()  # nothing was resumed


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
    assert "No space left" in result.alarms[0]
    assert any(line.startswith("ALARM") for line in home.heard.lines)


def test_a_run_that_diverges_is_billed_as_failed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        session_module, "next_token_loss", lambda model, batch, scale: model.norm.weight.sum() * float("nan")
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
    resumed = home.run(resume=True)
    assert resumed.run_id == stopped.run_id
    assert resumed.status == "finished"
    assert resumed.version.digest == whole.version.digest
    assert home.rows()[-1]["status"] == "finished"


def test_resume_with_nothing_to_resume_says_so_and_begins(home: Home) -> None:
    assert home.run(resume=True).status == "finished"
    assert "nothing to resume, a new run begins" in home.heard.lines
    assert len(home.rows()) == 1


def leave_unfinished(home: Home) -> TrainResult:
    result = home.run()
    (result.folder / "result.json").unlink()
    return result


def test_resume_with_other_settings_is_refused_with_both_values(home: Home) -> None:
    leave_unfinished(home)
    with pytest.raises(SettingsError, match=r"batch_size: got 3, wanted 2 as in tiny-"):
        home.run(resume=True, batch_size=3)
    assert home.run(resume=True, other_settings="begin anew", batch_size=3).status == "finished"
    assert any("has other settings (batch_size)" in line for line in home.heard.lines)


def test_two_processes_do_not_teach_in_one_run(home: Home) -> None:
    with FileLock(leave_unfinished(home).folder / "run.lock"), pytest.raises(BusyError):
        home.run(resume=True)


def test_a_given_tokenizer_is_used(home: Home) -> None:
    first = home.run()
    second = home.run(tokenizer=first.version.path)
    assert second.version.lineage.tokenizer_digest == first.version.lineage.tokenizer_digest


def test_neither_budget_nor_steps_is_refused(home: Home) -> None:
    with pytest.raises(SettingsError, match="a budget like 4min"):
        home.run(steps=None)


def test_the_demo_has_settings_for_both_corpora() -> None:
    for corpus in ("shakespeare", "stdlib"):
        settings = demo_settings(corpus, "4min")
        assert settings.budget_s == 240
        assert settings.data.demo == corpus
