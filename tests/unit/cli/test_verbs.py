"""The verbs on a real, tiny model: list, generate, talk, score, and what goes wrong."""

import contextlib
import errno
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tuition.books.books import open_books
from tuition.cli import chat
from tuition.cli.main import FAILURE, USAGE, complain
from tuition.core.workspace import Workspace
from tuition.desk.engine import Engine
from tuition.engine.settings import EngineSettings
from tuition.ledger.reconciliation import reconcile
from tuition.ledger.statements import of_model, request_receipts

RECEIPTS = ("bill", "request", "--format", "json")


def test_the_run_is_listed_with_its_settings(tuition, home: Path) -> None:
    status, out, _ = tuition("models", "show", "tiny")
    assert "sampling          no defaults" in out
    assert "runner            " in out
    assert status == 0
    assert 'name = "tiny"' in out
    assert out.count("heldout bits per byte") == out.count("bits per byte") == 1, "a score is shown once"
    assert re.search(r"^  first weights +random$", out, re.MULTILINE), "what auto has become"
    rows = [json.loads(line) for line in tuition("models", "list", "--json")[1].splitlines()]
    assert [(row["name"], row["version"]) for row in rows] == [("tiny", 1)]
    stored = next(home.glob("runs/*/settings.toml"))
    assert (
        tuition("train", "--settings", str(stored), "--print-settings")[1].splitlines()[0] == 'name = "tiny"'
    )


def test_a_prompt_is_continued_and_billed(tuition) -> None:
    words = ("--max-tokens", "5", "--engine.runner", "torch", "--sampling.seed", "1")
    status, out, err = tuition("generate", "tiny", "The cat", *words)
    assert status == 0
    assert out.strip()
    assert " + 5 tokens in " in err
    assert "$" in err
    (receipt,) = json.loads(tuition(*RECEIPTS, "--limit", "1")[1])
    assert receipt["generated_tokens"] == 5


def test_a_file_is_answered_once_and_its_replies_are_billed(tuition, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"id": f"q{i}", "prompt": "The dog"}) + "\n" for i in range(3)))
    words = ("generate", "tiny", "--prompts", str(source), "--out", str(target), "--max-tokens", "4")
    words += ("--engine.runner", "torch", "--sampling.seed", "1")
    status, _, err = tuition(*words)
    assert status == 0
    assert re.search(r"12 generated; .* Wh, \$0\.0", err)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert {row["id"] for row in rows} == {"q0", "q1", "q2"}
    for row in rows:  # one id in file and books, and the cost on the line
        receipt = json.loads(tuition(*RECEIPTS, row["request"])[1])
        assert receipt["generated_tokens"] == row["generated_tokens"] == 4
        assert (receipt["cost_usd"], receipt["energy_wh"]) == (row["cost_usd"], row["energy_wh"])
    status, _, err = tuition(*words)
    assert status == 0
    assert "0 replies written" in err
    assert "3 were there" in err


def test_replies_that_are_cut_short_are_billed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops reading has had the machine's time all the same."""
    monkeypatch.setenv("TUITION_HOME", str(home))
    workspace = Workspace(home)
    with open_books(workspace) as books:
        settings = EngineSettings(runner="torch")
        with Engine("tiny", workspace=workspace, books=books, settings=settings) as engine:
            short, long = (
                replace(engine.request([first], max_tokens=most), ignore_eos=True)
                for first, most in ((1, 2), (2, 40))
            )
            replies = engine.run([short, long])
            assert next(replies).finish_reason == "length"
            replies.close()
        newest = request_receipts(books, *of_model("tiny"), limit=2)
        assert sorted(receipt.finish_reason for receipt in newest) == ["cancelled", "length"]
        assert all(receipt.total.wall_ns > 0 for receipt in newest)
        assert reconcile(books).in_flight.wall_ns == 0


def test_a_conversation_ends_with_its_input(tuition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat.sys, "stdin", io.StringIO("The cat\n/new\nA bird\n"))
    status, out, err = tuition("chat", "tiny", "--max-tokens", "4", "--engine.runner", "torch")
    assert status == 0
    assert out.strip()
    assert out.endswith("\n"), "a reply in a file ends with its line, without the cost lines of stderr"
    assert len(re.findall(r"^\[\d+ \+ \d+ tokens in ", err, re.MULTILINE)) == 2


class Echo:
    """Says what it was told."""

    name, has_chat = "echo", True

    def __init__(self) -> None:
        self.heard: list[str] = []

    def reply(self, messages: list[dict[str, str]]) -> str:
        self.heard.append(messages[-1]["content"])
        return "yes"


def test_commands_are_not_sent_to_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    partner, said = Echo(), "/help\n/new\n/nosuch thing\n//etc/hosts?\n1/2\n"
    monkeypatch.setattr(chat.sys, "stdin", io.StringIO(said))
    chat.talk(partner, chat.Chat())
    assert partner.heard == ["/etc/hosts?", "1/2"]
    helped, unknown = capsys.readouterr().err.splitlines()
    assert helped == chat.HELP
    assert unknown.startswith("there is no /nosuch")


@pytest.mark.parametrize("word", ["/quit", "/exit", "/bye"])
def test_a_word_ends_the_conversation(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    partner = Echo()
    monkeypatch.setattr(chat.sys, "stdin", io.StringIO(f"to be\n{word}\nor not to be\n"))
    chat.talk(partner, chat.Chat())
    assert partner.heard == ["to be"]


def test_before_a_reply_comes_nothing_but_what_was_asked_for(tuition) -> None:
    words = ("generate", "tiny", "The cat", "--max-tokens", "2", "--engine.runner", "torch")
    assert re.fullmatch(r"\[\d+ \+ 2 tokens in .*\]\n", tuition(*words)[2])
    assert "torch runner: " in tuition(*words, "--verbose")[2]


def test_a_score_is_kept_with_the_model(tuition) -> None:
    status, out, _ = tuition("eval", "tiny")
    assert status == 0
    assert "bits per byte over" in out
    assert tuition("models", "show", "tiny")[1].count("heldout bits per byte") == 2


def test_text_that_grew_since_training_does_not_change_the_score(tuition, home: Path) -> None:
    """Split again, the longer text would have taught blocks in its held-out part."""
    before = tuition("eval", "tiny")[1].splitlines()[0]
    path = home.parent / "3.txt"
    text = path.read_text()
    try:
        path.write_text(text + "And then a second cat came by, and nobody had taught it anything.\n" * 40)
        status, out, err = tuition("eval", "tiny")
    finally:
        path.write_text(text)
    assert status == 0
    assert out.splitlines()[0] == before
    assert "the text has changed since training" in err
    assert "scored on what training held out" in err


def test_a_model_that_does_not_fit_is_not_scored(tuition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuition.engine.torch_runner.free_bytes", lambda device: 1_000)
    status, _, err = tuition("eval", "tiny", "--runner", "torch")
    assert status == FAILURE
    assert "1,000 are available; use a smaller model, fewer bits (--precision" in err


@pytest.mark.parametrize(("precision", "name"), [("float32", "float32"), ("bf16", "bfloat16")])
def test_a_score_says_the_precision_that_was_scored(tuition, precision: str, name: str) -> None:
    words = ("eval", "tiny", "--runner", "torch", "--precision", precision)
    assert f"in torch {name} on cpu" in tuition(*words)[1]
    assert f"in torch {name} on cpu" in tuition("models", "show", "tiny")[1]


def test_a_precision_that_cannot_be_served_is_not_scored(tuition) -> None:
    status, _, err = tuition("eval", "tiny", "--runner", "torch", "--precision", "int8")
    assert status != 0
    assert "precision" in err


def test_text_that_was_named_and_taught_is_not_scored(tuition, home: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.txt").write_bytes((home.parent / "3.txt").read_bytes().replace(b"\n", b"\r\n"))
    status, _, err = tuition("eval", "tiny", "--data.paths", str(tmp_path / "copy.txt"))
    assert status == FAILURE
    assert "was taught to tiny@1, all of it" in err


def test_a_score_on_text_that_was_named_is_not_called_heldout(tuition, home: Path, tmp_path: Path) -> None:
    """Its share is held out by another split."""
    before = tuition("models", "show", "tiny")[1].count("heldout bits per byte")
    (tmp_path / "new.txt").write_text("".join(f"A new line of text, number {n * n}.\n" for n in range(99)))
    assert tuition("eval", "tiny", "--data.paths", str(tmp_path / "new.txt"))[0] == 0
    shown = tuition("models", "show", "tiny")[1]
    assert shown.count("heldout bits per byte") == before
    assert "bits per byte of other text" in shown


def test_doctor_finds_the_workspace(tuition, home: Path) -> None:
    status, out, _ = tuition("doctor")
    assert status == 0
    assert f"{home}, 1 models" in out
    assert "assumed" in out
    machine = json.loads(tuition("doctor", "--json", "--machine.usd-per-hour", "0.5")[1])["machine"]
    assert machine["usd_per_hour"] == 0.5
    assert machine["origins"]["usd_per_hour"]["provenance"] == "user"


def test_a_message_carries_no_orders_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    complain("the template says: \x1b[31mred\nand more", debug=False)
    assert capsys.readouterr().err == "tuition: the template says: \ufffd[31mred\ufffdand more\n"


def test_a_full_disk_is_not_called_a_bug(tuition, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    monkeypatch.setattr("tuition.cli.main.dispatch", full)
    status, _, err = tuition("models", "add", "other", str(tmp_path))
    assert status == FAILURE
    assert "No space left on device" in err
    assert "bug" not in err


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (("train", "--budget", "4min"), USAGE, "data.paths"),
        (("train", "--budget", "4"), USAGE, "a number with a unit"),
        (("demo", "--budget", "4"), USAGE, "a number with a unit"),
        (("generate", "tiny"), USAGE, "--prompts"),
        (("generate", "tinny", "x"), FAILURE, "did you mean 'tiny'"),
        (("eval", "tiny", "--data.paths", "/does/not/exist"), FAILURE, "/does/not/exist"),
        (("eval", "tiny", "--data.heldout-share", "0.5"), USAGE, "--data.heldout-share"),
        (("eval", "tiny", "--max-bytes", "0"), USAGE, "--max-bytes"),
        (("eval", "tiny", "--window", "0"), USAGE, "window"),
        (("eval", "tiny", "--stride", "-1"), USAGE, "stride: got -1, wanted at least 1"),
        (("generate", "tiny", "x", "--chat"), USAGE, "chat template"),
        (("generate", "tiny", "x", "--chat", "--raw"), USAGE, "--raw or --chat"),
        (("generate", "tiny", "--prompts", "p", "--out", "o", "--raw"), USAGE, "--raw"),
        (("generate", "tiny", "x", "--sampling.top-p", "2"), USAGE, "--sampling.top-p"),
        (("train", "a.txt", "--data.paths", "b.txt"), USAGE, "all of the text in one place"),
        (("train", "", "--budget", "1s"), USAGE, "TEXTS: got '', wanted a path; is a variable unset?"),
        (("generate", "tiny", "--prompts", "p", "--out", "o", "--chat"), USAGE, "chat"),
        (("chat", "--url", "http://127.0.0.1:9"), FAILURE, "tuition serve"),
        (("chat", "tiny", "--url", "http://127.0.0.1:9"), FAILURE, "no answer from http://127.0.0.1:9"),
        (("bill", "run", "nope"), FAILURE, "no run 'nope' is in the books; `tuition bill run` lists them"),
        (("bill", "request", "nope"), FAILURE, "is in the books; `tuition bill request` lists them"),
        (("eval", "{folder}"), USAGE, "data.paths: nothing given, wanted --data.paths FILE"),
        (("bill", "request", "--limit", "9" * 20), USAGE, "limit"),
        (("bill", "request", "--limit", "-5"), USAGE, "limit"),
        (("models", "add", "Bad Name", "."), USAGE, "Bad Name"),
        (("serve", "tiny", "--host", "192.0.2.1"), USAGE, "TUITION_API_KEY"),
        (("eval", "tiny", "--device", "cpu", "--machine.device", "mps"), USAGE, "machine.device"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_way_out(
    tuition, home: Path, words, status: int, line: str
) -> None:
    folder = str(next(home.glob("models/tiny/1")))
    got, out, err = tuition(*(word.format(folder=folder) for word in words))
    told = [row for row in err.splitlines() if row.startswith("tuition:")]
    assert (got, out) == (status, "")
    assert len(told) == 1
    assert line in told[0]


def test_a_removed_model_keeps_its_bill(tuition, home: Path) -> None:
    folder = home / "models" / "tiny" / "1"
    assert tuition("models", "add", "copy", str(folder))[0] == 0
    assert tuition("models", "remove", "copy@1")[0] == 0
    with contextlib.suppress(FileNotFoundError):
        assert not any((home / "models" / "copy").iterdir())
    assert folder.exists()
    assert "tiny" in tuition("bill")[1]
