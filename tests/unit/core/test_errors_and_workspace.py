"""Errors end with the way out; a workspace is where the user said, and private."""

import contextlib
import io
import re
import stat
from pathlib import Path

import pytest

from tuition.core.errors import CapacityError, DataError, MissingExtraError, NotFoundError, SettingsError
from tuition.core.progress import LineProgress, SilentProgress
from tuition.core.workspace import open_workspace


def test_messages_carry_both_numbers_and_the_way_out() -> None:
    error = CapacityError("the prompt", need=5_000, free=4_096, unit="tokens", way_out="shorten it")
    assert str(error) == "the prompt needs 5,000 tokens, 4,096 are available; shorten it"
    assert str(SettingsError("steps", got=0, wanted="1 or more")) == "steps: got 0, wanted 1 or more"
    assert str(SettingsError("paths", got=(), wanted="a file")) == "paths: nothing given, wanted a file"
    broken = DataError("a.jsonl", "no field 'text'", line=1204, way_out="set --data.field")
    assert str(broken) == "a.jsonl, line 1,204: no field 'text'; set --data.field"
    assert "pip install 'tuition[parquet]'" in str(MissingExtraError("x", package="pyarrow", extra="parquet"))


def test_an_unknown_name_gets_a_suggestion() -> None:
    assert "did you mean 'shakespeare'" in str(
        NotFoundError("model", "shakespere", ["shakespeare", "smollm2"])
    )
    assert "none yet" in str(NotFoundError("model", "x", []))


def test_the_workspace_is_the_named_one_then_the_environment_then_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUITION_HOME", str(tmp_path / "env"))
    assert open_workspace(tmp_path / "named").root == tmp_path / "named"
    assert open_workspace().root == tmp_path / "env"
    monkeypatch.delenv("TUITION_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_workspace().root == tmp_path / ".tuition"


def test_a_workspace_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    root = open_workspace(tmp_path / "w").create().root
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_a_workspace_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for root in (file, file / "below"):
        with pytest.raises(SettingsError, match=r"workspace: got .*file"):
            open_workspace(root).create()


def test_line_progress_ends_each_task_with_a_line_also_after_an_error() -> None:
    stream = io.StringIO()
    progress = LineProgress(stream, every_s=1_000, quick_s=0)
    with contextlib.suppress(KeyError), progress.task("tokenize", 2048, "B") as task:
        task.advance(1024, note="half")
        raise KeyError
    assert "tokenize:  50%  1.0 KiB of 2.0 KiB  half" in stream.getvalue()


def test_the_end_of_a_task_is_told_once() -> None:
    stream = io.StringIO()
    with LineProgress(stream, every_s=0, quick_s=0).task("evaluate", 10, "B") as task:
        task.advance(10)
    assert stream.getvalue().count("100%") == 1


def test_what_was_done_at_once_leaves_no_line() -> None:
    stream = io.StringIO()
    with LineProgress(stream, quick_s=1_000).task("look at files", 10, "B") as task:
        task.advance(10)
    assert stream.getvalue() == ""


def test_no_amount_is_told_of_a_task_that_had_nothing_to_do() -> None:
    stream = io.StringIO()
    with LineProgress(stream, quick_s=0).task("look at files", 0, "B"):
        pass
    assert re.fullmatch(r"  look at files: \[.* ms\]\n", stream.getvalue())


def test_silence_takes_everything() -> None:
    with SilentProgress().task("x") as task:
        task.advance(3, note="y")
