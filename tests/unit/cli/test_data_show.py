"""`tuition data show`: the first rows as the model will see them."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuition.cli.main import FAILURE, USAGE

Run = Callable[..., tuple[int, str, str]]
CHAT = (
    "{% for m in messages %}{% set end = '<|endoftext|>' if m.role == 'assistant' else '\\n' %}"
    "{{ m.role + ':\\n' + m.content + end }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
)


@pytest.fixture
def model(home: Path, tmp_path: Path) -> str:
    """The tiny model with a chat template."""
    (source,) = (home / "models" / "tiny").glob("*/")
    folder = tmp_path / "chatty"
    shutil.copytree(source, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": CHAT}))
    (folder / "tuition.json").unlink(missing_ok=True)
    return str(folder)


def row(number: object, reply: str = "on the mat.", turns: int = 1) -> dict[str, Any]:
    roles = ({"role": "user", "content": f"Where is cat {number}?"}, {"role": "assistant", "content": reply})
    return {"messages": [*roles] * turns}


def written(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return str(path)


def test_taught_tokens_stand_between_marks(tuition: Run, model: str, tmp_path: Path) -> None:
    path = written(tmp_path, [row(n, turns=2) for n in range(30)])
    status, out, err = tuition("data", "show", path, "--model", model, "--rows", "30", "--context", "500")
    assert (status, err) == (0, "")
    assert out.startswith("taught tokens look like ⟦this⟧\n\nexample 1: ")
    turn = r"user:\nWhere is cat \d+\?\nassistant:\n⟦on the mat\.<.endoftext.>⟧"
    assert len(re.findall(f"taught\n{turn}{turn}\n", out)) >= 20
    lines = {line.partition("  ")[0]: line.partition("  ")[2].strip() for line in out.splitlines()}
    assert lines["read as"] == "messages (messages): rows.jsonl"
    assert lines["examples to teach"] in ("27", "28", "26")
    assert lines["held out"].endswith("of 30 examples held out, chosen by a hash of their content")


def test_marks_are_others_where_the_text_has_them(tuition: Run, model: str, tmp_path: Path) -> None:
    path = written(tmp_path, [row(n, "⟦a] is [[ b") for n in range(30)])
    out = tuition("data", "show", path, "--model", model, "--rows", "30", "--context", "500")[1]
    assert out.startswith("taught tokens look like {{{this}}}\n")
    assert "assistant:\n{{{⟦a] is [[ b<|endoftext|>}}}\n" in out


def test_control_characters_do_not_reach_the_terminal(tuition: Run, model: str, tmp_path: Path) -> None:
    path = written(tmp_path, [row(n, "a\x1b]0;x\x07b\r\u009bc") for n in range(30)])
    out = tuition("data", "show", path, "--model", model, "--context", "500")[1]
    assert r"⟦a\x1b]0;x\x07b\r\x9bc<|endoftext|>⟧" in out


def test_a_terminal_gets_colours(home: Path, model: str, tmp_path: Path) -> None:
    """Also where a pipe would get marks: a terminal of its own shows it."""
    path = written(tmp_path, [row(n) for n in range(30)])
    words = [
        sys.executable,
        "-m",
        "tuition.cli.main",
        "data",
        "show",
        path,
        "--model",
        model,
        "--context",
        "500",
    ]
    for variables, shown in (
        ({}, b"\x1b[1;32mon the mat.<|endoftext|>\x1b[0m"),
        ({"NO_COLOR": "1"}, "⟦on".encode()),
    ):
        main_end, terminal = pty.openpty()
        environment = os.environ | {"TUITION_HOME": str(home)} | variables
        with subprocess.Popen(words, stdout=terminal, stderr=subprocess.PIPE, env=environment) as process:
            os.close(terminal)
            out = b""
            try:
                while piece := os.read(main_end, 65_536):
                    out += piece
            except OSError:  # Linux says so when the other end is closed
                pass
            os.close(main_end)
        assert process.returncode == 0
        assert shown in out


def test_everything_is_said_as_json(tuition: Run, model: str, tmp_path: Path) -> None:
    train = written(tmp_path, [*(row(n) for n in range(20)), row(3), row(50, turns=9), {"messages": []}])
    heldout = written(tmp_path, [row(n) for n in (5, 5, 100)], "own.jsonl")
    words = ("--data.heldout-paths", heldout, "--data.on-bad", "skip", "--rows", "2", "--context", "200")
    status, out, _ = tuition("data", "show", train, "--model", model, "--json", *words)
    found = json.loads(out)
    assert status == 0
    assert (found["num_train"], found["num_heldout"], found["num_duplicates"], found["num_leaked"]) == (
        21,
        2,
        1,
        1,
    )
    assert (found["num_too_long"], found["num_cut"], found["num_left_out"]) == (1, 1, 0)
    assert (found["num_skipped"], found["skipped"], found["num_heldout_copies"]) == (1, {"empty": 1}, 1)
    assert found["leaked"] == [f"{train}, line 6"]
    assert found["lengths"]["longest"] > 200 > found["lengths"]["p95"] >= found["lengths"]["median"]
    first = found["rows"][0]
    assert [run["taught"] for run in first["sequences"][0]] == [False, True]
    assert first["sequences"][0][1]["text"] == "on the mat.<|endoftext|>"
    assert "".join(run["text"] for run in first["sequences"][0]) == (
        "user:\nWhere is cat 0?\nassistant:\non the mat.<|endoftext|>"
    )


def test_what_training_would_refuse_is_said(tuition: Run, model: str, tmp_path: Path) -> None:
    path = written(tmp_path, [*(row(n) for n in range(20)), row(50, turns=9)])
    words = ("data", "show", path, "--model", model, "--context", "200", "--data.heldout-paths",
             written(tmp_path, [row(99)], "own.jsonl"))  # fmt: skip
    assert "1: training refuses them; choose --data.too-long cut or leave-out" in tuition(*words)[1]
    out = tuition(*words, "--rows", "30", "--data.too-long", "cut")[1]
    assert "longer than 200       1: 1 cut, 0 left out" in out
    assert "more tokens do not fit" in out
    assert "1: 0 cut, 1 left out" in tuition(*words, "--data.too-long", "leave-out")[1]


def test_rows_are_as_long_as_training_takes_them(tuition: Run, model: str, tmp_path: Path) -> None:
    path = written(tmp_path, [row(n) for n in range(30)])
    config = Path(model) / "config.json"
    for context, taken in ((128, 128), (8_192, 2_048)):
        values = json.loads(config.read_text()) | {"max_position_embeddings": context}
        config.write_text(json.dumps(values))
        found = json.loads(tuition("data", "show", path, "--model", model, "--json")[1])
        assert found["context"] == taken


def test_a_single_example_can_be_shown(tuition: Run, model: str, tmp_path: Path) -> None:
    """Though training refuses it."""
    out = tuition("data", "show", written(tmp_path, [row(1)]), "--model", model)[1]
    assert "⟦on the mat.<|endoftext|>⟧" in out
    assert "0 of 1 examples held out, too few to hold some out (different examples: 1)" in out


def test_plain_text_is_shown_as_pretraining_sees_it(tuition: Run, tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"The cat sat on mat {number}.\n")
    status, out, _ = tuition("data", "show", str(tmp_path), "--model", "tiny", "--rows", "1")
    assert status == 0
    assert re.search(
        r"document 1: (\d+)\.txt: \d+ tokens, \d+ taught\n<.endoftext.>⟦The cat sat on mat \1\.\n⟧", out
    )
    assert "documents to teach" in out
    rows = written(tmp_path, [{"story": f"The dog {n}"} for n in range(30)])
    assert "⟦The dog" in tuition("data", "show", rows, "--model", "tiny", "--text-field", "story")[1]


def test_a_model_without_a_template_shows_plain_pairs(tuition: Run, tmp_path: Path) -> None:
    path = written(tmp_path, [{"prompt": f"cat {n} is ", "completion": "here"} for n in range(30)])
    assert (
        "cat 0 is ⟦here<|endoftext|>⟧" in tuition("data", "show", path, "--model", "tiny", "--rows", "30")[1]
    )
    status, _, err = tuition("data", "show", written(tmp_path, [row(1)]), "--model", "tiny")
    assert status == FAILURE
    assert "holds conversations, which cannot be taught as plain text; start from a model with a chat" in err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ((), USAGE, "files: nothing given, wanted the data to show"),
        (("", "--model", "tiny"), USAGE, "FILES: got '', wanted a path; is a variable unset?"),
        (("--data.paths", "", "--model", "tiny"), USAGE, "--data.paths: got '', wanted a path"),
        (("{path}", "--data.heldout-paths=", "--model", "tiny"), USAGE, "--data.heldout-paths: got '',"),
        (("{path}", "--workspace", ""), USAGE, "--workspace: got '', wanted a path; is a variable unset?"),
        (("{path}",), USAGE, "model: nothing given, wanted --model NAME"),
        (("{path}", "--data.paths", "{path}", "--model", "tiny"), USAGE, "all files in one place"),
        (("{path}", "--model", "nobody"), FAILURE, "no model named 'nobody'"),
        (("nowhere.jsonl", "--model", "tiny"), FAILURE, "nowhere.jsonl: is not there"),
        (("{path}", "--model", "tiny", "--rows", "-1"), USAGE, "rows"),
        (("{path}", "--model", "tiny", "--context", "1"), USAGE, "context"),
        (
            ("{faq}", "--model", "tiny"),
            FAILURE,
            "--data.prompt-field question --data.completion-field answer",
        ),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(
    tuition: Run, tmp_path: Path, words: tuple[str, ...], status: int, message: str
) -> None:
    path = written(tmp_path, [row(1)])
    faq = written(tmp_path, [{"question": "a", "answer": "b"}], "faq.jsonl")
    found, _, err = tuition("data", "show", *(word.format(path=path, faq=faq) for word in words))
    assert (found, err.count("\n")) == (status, 1)
    assert message in err
