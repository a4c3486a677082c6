"""Resuming: which run, with what is left of its time, to the same bits, or refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tuition.core.errors import BusyError, NotFoundError, SettingsError
from tuition.core.lock import FileLock
from tuition.core.settings import table_to_toml
from tuition.data.settings import DataSettings
from tuition.ledger import training
from tuition.train.folder import RunFolder, find_run
from tuition.train.header import settings_table
from tuition.train.recipes.pretrain import Pretrain
from tuition.train.run import TrainResult
from unit.train.home import At, Clock, Home, Killed, interrupt


@pytest.mark.usefixtures("unhurried")
def test_a_killed_run_has_what_is_left_of_its_budget(home: Home) -> None:
    """Steps of one second, a checkpoint after the third, dead in the sixth: 5 of 10 s are in the bill."""
    clock = Clock()
    with pytest.raises(Killed):
        home.run_timed(clock, {"step_s": 1.0, "dies_in": 6}, budget="10s")
    resumed = home.run_timed(clock, {"step_s": 1.0}, resume="newest", budget="10s")
    assert any(line.startswith("continues after step 3, ") for line in home.heard.lines)
    assert resumed.seconds == 9.0  # a step more, at the mean pace of 9 s for 7 steps, would end after 10 s
    assert resumed.num_steps == 7


def test_ctrl_c_keeps_the_model_and_resume_ends_like_an_unbroken_run(home: Home) -> None:
    whole = home.run()
    stopped = home.run(listeners=(At(5, interrupt),))
    assert (stopped.status, stopped.num_steps) == ("stopped", 5)
    assert any(line.startswith("SIGINT: stopping, saving") for line in home.heard.lines)
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
    assert home.run(resume="newest", other_settings="begin a new run", batch_size=3).status == "finished"
    assert any("has other settings (batch_size)" in line for line in home.heard.lines)


def test_resume_with_other_text_is_refused_or_begins_anew(home: Home) -> None:
    first = leave_unfinished(home)
    (before,) = home.rows()
    (path,) = home.taught.data.paths
    path.write_text("another play of another king\n" * 500)
    with pytest.raises(
        SettingsError, match=r"corpus: got 'digest .*as the run that is resumed began; or leave"
    ):
        home.run(resume="newest")
    (row,) = home.rows()
    assert (row["status"], row["reason"][:19]) == ("stopped", "corpus: got 'digest"), "no step of it failed"
    assert row["corpus_digest"] == before["corpus_digest"] is not None
    anew = home.run(resume="newest", other_settings="begin a new run")
    assert anew.status == "finished"
    assert anew.run_id != first.run_id
    said = f"{first.run_id} is unfinished and its data has changed"
    assert any(line.startswith(said) for line in home.heard.lines)


def test_a_run_killed_before_its_first_checkpoint_knows_its_text_too(home: Home) -> None:
    """Its tokenizer was learned from that text, and its time is billed for it."""
    first = leave_unfinished(home)
    shutil.rmtree(first.folder / "checkpoints")
    (path,) = home.taught.data.paths
    path.write_text("another play of another king\n" * 500)
    assert home.run(resume="newest", other_settings="begin a new run").run_id != first.run_id


def toml(home: Home, **changes: Any) -> str:
    settings, taught = home.with_changes(**changes)
    return table_to_toml(settings_table(settings, Pretrain(taught)))


def stop_after(home: Home, steps: int, **changes) -> TrainResult:
    """A run that has a checkpoint and is not finished."""
    result = home.run(steps=steps, **changes)
    (result.folder / "result.json").unlink()
    (result.folder / "settings.toml").write_text(toml(home, **changes))  # as if more steps had been asked for
    return result


def test_a_run_without_a_checkpoint_never_hides_one_that_has(home: Home) -> None:
    """The same command was started again and interrupted while it prepared."""
    killed = stop_after(home, 3)
    RunFolder(home.workspace.runs / "tiny-29990101-000000-aaaa").create(toml(home))
    mistyped = DataSettings(paths=(Path("/mistyped"),))
    RunFolder(home.workspace.runs / "tiny-29990102-000000-bbbb").create(toml(home, data=mistyped))
    assert find_run(home.workspace).run_id == find_run(home.workspace, "tiny").run_id == killed.run_id
    result = home.run(resume="newest")
    assert (result.run_id, result.num_steps) == (killed.run_id, 8)
    assert {f"resuming {killed.run_id}", "continues after step 3, exactly"} <= set(home.heard.lines)


def test_the_newest_run_with_these_settings_is_taken(home: Home) -> None:
    first, _ = stop_after(home, 3), stop_after(home, 3, batch_size=3)
    assert home.run(resume="newest").run_id == first.run_id


def test_a_run_is_found_by_its_id_or_its_model_and_a_finished_or_unknown_one_is_refused(home: Home) -> None:
    done, first = home.run(), stop_after(home, 3, name="other")
    for wanted in (None, "other", first.run_id):
        assert find_run(home.workspace, wanted).run_id == first.run_id
    for wanted in (done.run_id, "tiny"):
        with pytest.raises(SettingsError, match=f"every run that '{wanted}' means is finished"):
            find_run(home.workspace, wanted)
    for wanted in ("nobody", "../runs", ""):
        with pytest.raises(NotFoundError, match=f"known: {first.run_id}"):
            find_run(home.workspace, wanted)
    with pytest.raises(SettingsError, match=r"batch_size: got 3, wanted 2 as in other-"):
        home.run(resume=find_run(home.workspace, "other"), name="other", batch_size=3)


@pytest.mark.usefixtures("unhurried")
def test_the_receipt_counts_every_token_that_the_model_saw(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed behind the checkpoint of step 6 and before the bill was saved, which knows of step 3."""
    with monkeypatch.context() as patch:
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
    assert row["num_tokens"] == result.num_units


def test_two_processes_do_not_teach_in_one_run(home: Home) -> None:
    with FileLock(leave_unfinished(home).folder / "run.lock"), pytest.raises(BusyError):
        home.run(resume="newest")
