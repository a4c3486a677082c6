"""The program as a whole: one line for what went wrong, the right status, quiet when its reader goes away."""

import subprocess
import sys
from pathlib import Path

import pytest

from tuition.cli import main as program
from tuition.cli.main import FAILURE, INTERRUPTED, USAGE, main
from tuition.core.errors import ModelError, SettingsError

MISSING = "does-not-exist"


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def dispatch(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(program, "dispatch", dispatch)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (SettingsError("steps", got=0, wanted="1 or more"), USAGE, "tuition: steps: got 0, wanted 1 or more"),
        (
            ModelError("m", "is damaged", way_out="add it again"),
            FAILURE,
            "tuition: m: is damaged; add it again",
        ),
        (
            ValueError("two\nlines"),
            FAILURE,
            "tuition: ValueError: two lines (this is a bug; rerun with --debug for the traceback)",
        ),
        (KeyboardInterrupt(), INTERRUPTED, "tuition: stopped"),
    ],
)
def test_what_went_wrong_is_one_line_and_a_status(
    error: BaseException,
    status: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fail_with(monkeypatch, error)
    assert main(["bill"]) == status
    assert capsys.readouterr().err.strip() == line


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, ModelError("m", "is damaged", way_out="add it again"))
    assert main(["bill", "--debug"]) == FAILURE
    assert "Traceback" in capsys.readouterr().err


def test_every_verb_is_listed_and_a_near_miss_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {verb} " in told for verb in program.VERBS)
    assert main(["modles"]) == USAGE
    assert "did you mean models?" in capsys.readouterr().err
    assert main([]) == USAGE


def test_an_unknown_option_is_one_line_with_the_likely_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bill", "--formt", "json"]) == USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tuition: bill statement: unknown option --formt; ")
    assert "did you mean --format" in line


@pytest.mark.usefixtures("workspace")
def test_nothing_to_serve_says_how_to_get_something(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0"]) == FAILURE
    (line,) = capsys.readouterr().err.splitlines()
    assert "none given" not in line
    for way_out in ("tuition train", "tuition demo", "tuition models add NAME PATH", "tuition serve PATH"):
        assert way_out in line


@pytest.mark.usefixtures("workspace")
def test_a_missing_model_is_named_with_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", MISSING]) == FAILURE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tuition: no model named {MISSING!r}; the workspace has none; ")
    assert all(way_out in line for way_out in ("tuition train FILE", "tuition models add NAME PATH"))


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """`tuition doctor --json | head -1`: no traceback, and the status a closed pipe has."""
    command = [sys.executable, "-m", "tuition.cli.main", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        told = child.stderr.read()
        assert child.wait() in (0, program.PIPE_CLOSED)
    assert told == b""


def test_nothing_calls_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in program.QUIET:
        monkeypatch.delenv(name)
    main(["--version"])
    import os

    assert {name: os.environ[name] for name in program.QUIET} == program.QUIET
