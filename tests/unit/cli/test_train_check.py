"""`tuition train --check`: task files that a model answers before and after it was taught."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tuition.cli.main import FAILURE, USAGE

ANSWERS = {"The cat": "sat on the mat.", "The dog": "sat on the log.", "A bird": "sang."}


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    pairs = [
        {"prompt": f"{prompt} {n}", "completion": said} for prompt, said in ANSWERS.items() for n in range(9)
    ]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return str(path)


def task_file(path: Path, **header: Any) -> str:
    items = [{"prompt": prompt, "target": said} for prompt, said in ANSWERS.items()]
    head = {"task": "sayings", "kind": "exact", "max_tokens": 4} | header
    path.write_text("".join(json.dumps(row) + "\n" for row in (head, *items)))
    return str(path)


def words(rows: str, name: str, *more: str) -> list[str]:
    return ["train", "--from", "tiny", "--data.paths", rows, "--name", name, "--steps", "2",
            "--control-bytes", "0", "--evaluation.times", "0", *more]  # fmt: skip


def runs_of(home: Path, name: str) -> list[Path]:
    return list(home.glob(f"runs/{name}-*"))


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_tasks_are_answered_before_and_after(
    tuition, home: Path, rows: str, tmp_path: Path, adapter: str
) -> None:
    """By the base and by the result; both scores are kept with the models."""
    task, name = task_file(tmp_path / "sayings.task.jsonl"), f"checked-{adapter}"
    status, out, err = tuition(*words(rows, name, "--adapter", adapter, "--check", task))
    assert status == 0, err
    assert re.search(r"^task +items +before % .* after %", out, re.M)
    assert re.search(r"^sayings +3 +0\.0 .* 0\.0 ", out, re.M)
    assert f"model: {name}@1" in out
    for model in ("tiny", name):
        assert "sayings accuracy" in tuition("models", "show", model)[1]


def test_an_adapter_that_is_taught_further_is_compared_with_what_it_was(
    tuition, rows: str, tmp_path: Path
) -> None:
    assert tuition(*words(rows, "first", "--adapter", "lora"))[0] == 0
    assert tuition("data", "show", rows, "--model", "first")[0] == 0, "with the tokenizer of its base"
    task = task_file(tmp_path / "again.task.jsonl", task="again")
    further = [word if word != "tiny" else "first" for word in words(rows, "second", "--check", task)]
    status, _, err = tuition(*further)
    assert status == 0, err
    assert "again" in tuition("models", "show", "first")[1]
    assert "again" not in tuition("models", "show", "tiny")[1]


REFUSED = {
    "a broken file": ({"kind": "guess"}, FAILURE, "kind: got 'guess'"),
    "a chat of a model without a chat template": (
        {"form": "chat"},
        USAGE,
        "form: got 'chat', wanted plain for this",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_task_that_cannot_be_asked_is_refused_before_anything_is_taught(
    tuition, home: Path, rows: str, tmp_path: Path, name: str
) -> None:
    header, wanted_status, problem = REFUSED[name]
    task = task_file(tmp_path / "bad.task.jsonl", **header)
    status, out, err = tuition(*words(rows, "refused", "--check", task))
    assert (status, out) == (wanted_status, "")
    assert problem in err
    assert not runs_of(home, "refused")


def test_a_task_file_that_is_missing_is_named(tuition, home: Path, rows: str, tmp_path: Path) -> None:
    status, _, err = tuition(*words(rows, "missing", "--check", str(tmp_path / "none.task.jsonl")))
    assert status == FAILURE
    assert "none.task.jsonl: cannot be read" in err
    assert err.endswith("; name a file with --check\n")
    assert not runs_of(home, "missing")


def test_two_tasks_of_one_name_are_refused(tuition, home: Path, rows: str, tmp_path: Path) -> None:
    tasks = [task_file(tmp_path / f"{number}.task.jsonl") for number in range(2)]
    status, _, err = tuition(*words(rows, "twice", "--check", *tasks))
    assert (status, "--check: got \"two of the name 'sayings'\"" in err) == (USAGE, True)
    assert not runs_of(home, "twice")


def test_without_a_base_there_is_nothing_to_compare_with(
    tuition, home: Path, rows: str, tmp_path: Path
) -> None:
    task = task_file(tmp_path / "sayings.task.jsonl")
    status, _, err = tuition("train", rows, "--name", "fresh", "--steps", "1", "--check", task)
    assert (status, "wanted nothing without --from" in err) == (USAGE, True)
    assert not runs_of(home, "fresh")
