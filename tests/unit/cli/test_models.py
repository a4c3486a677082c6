"""`tuition models`: what the list says, what is refused at once, what is removed only when it is meant."""

import io
import json
import shutil
from pathlib import Path

import pytest

from tuition.books.books import open_books
from tuition.cli.main import FAILURE, USAGE, main
from tuition.core.records import Score
from tuition.core.workspace import Workspace
from tuition.model.decoder import Decoder
from tuition.model.save import save_model
from tuition.registry.registry import Registry
from tuition.spec.shape import ModelShape
from tuition.tokenizer.training import train_bpe

CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_shape: ModelShape) -> dict[str, Path]:
    """A model that continues text, one that chats, and one whose tokenizer is not there."""
    root = tmp_path_factory.mktemp("models")
    weights = Decoder(tiny_shape).initialize()
    made = {}
    for name, template in (("text", None), ("chat", CHAT)):
        tokenizer = train_bpe(["the cat sat on the mat"] * 20, tiny_shape.vocab_size, chat_template=template)
        made[name] = save_model(root / name, weights, tiny_shape, tokenizer)
    made["mute"] = save_model(root / "mute", weights, tiny_shape, None)
    return made


@pytest.fixture
def filled(workspace: Workspace, folders: dict[str, Path]) -> Workspace:
    """`poet` twice, `clerk` once."""
    for name, kind in (("poet", "text"), ("poet", "text"), ("clerk", "chat")):
        assert main(["models", "add", name, str(folders[kind])]) == 0
    with open_books(workspace) as books:
        registry = Registry(workspace, books)
        registry.record_score(
            registry.get("poet@2"), Score("heldout bits per byte", 1.83, 0.01, "bits/byte", "m", 7)
        )
    return workspace


def names(workspace: Workspace) -> list[str]:
    with open_books(workspace) as books:
        return [version.reference for version in Registry(workspace, books).list()]


def test_the_list_says_what_a_model_is(filled: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(filled.models / "poet" / "1")
    capsys.readouterr()
    assert main(["models"]) == 0
    told = capsys.readouterr()
    head, *lines = (line.split("  ") for line in told.out.splitlines())
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert [cell.strip() for cell in head if cell.strip()] == [
        "model", "kind", "parameters", "size", "context", "score", "made",
    ]  # fmt: skip
    assert [row[:2] for row in rows] == [["clerk@1", "chat"], ["poet@2", "text"], ["poet@1", "missing"]]
    assert rows[1][4:6] == ["64", "1.830 bits/byte"]
    assert "poet@1: " in told.err
    assert main(["models", "list", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["kind"] for row in rows] == ["chat", "text", None]
    assert rows[1]["score"] == {
        "task": "heldout bits per byte", "value": 1.83, "stderr": 0.01, "unit": "bits/byte",
    }  # fmt: skip
    assert rows[1]["num_bytes"] > 0
    assert rows[1]["num_parameters"] > 0
    assert "does not exist" in rows[2]["problem"]


def test_a_model_without_a_tokenizer_is_refused_at_once(
    workspace: Workspace, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "add", "mute", str(folders["mute"])]) == FAILURE
    assert "tokenizer" in capsys.readouterr().err
    assert names(workspace) == []
    assert not list(workspace.models.glob("*"))


def test_all_versions_of_a_name_are_removed_only_with_yes(
    filled: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # no terminal: a script must say --yes
    assert main(["models", "remove", "poet"]) == USAGE
    told = capsys.readouterr().err
    assert "--yes, to remove all 2 versions of poet (poet@2, poet@1)" in told
    assert names(filled) == ["clerk@1", "poet@2", "poet@1"]
    assert main(["models", "remove", "poet", "--yes"]) == 0
    assert names(filled) == ["clerk@1"]
    assert main(["models", "remove", "clerk@1"]) == 0, "one version that is named needs no question"
    assert names(filled) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("answer", "is_removed"), [("y\n", True), ("yes\n", True), ("n\n", False), ("", False)]
)
def test_at_a_terminal_it_asks(
    filled: Workspace, monkeypatch: pytest.MonkeyPatch, answer: str, is_removed: bool
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert main(["models", "remove", "poet"]) == (0 if is_removed else 1)
    assert ("poet@1" in names(filled)) is not is_removed


def test_help_names_what_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    for action, wanted in (("show", "MODEL"), ("add", "NAME PATH"), ("remove", "MODEL")):
        with pytest.raises(SystemExit):
            main(["models", action, "--help"])
        told = capsys.readouterr().out
        usage = told.splitlines()[0]
        words = usage.removeprefix(f"usage: tuition models {action} [-h] ").removeprefix("[OPTIONS] ")
        assert words.startswith(wanted)
        assert "{None}" not in told
