"""`tuition chat` without a model name talks to a running server, to chat models and base models alike."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge import TINY_SERVER, Forge, ForgedProcess
from tuition.cli import chat
from tuition.cli.main import main


@pytest.fixture
def serve(forge: Forge, tmp_path: Path) -> Iterator[object]:
    """`serve(text, *options)`: the URL of a server whose model says this text."""
    started: list[ForgedProcess] = []

    def start(text: str, *options: str) -> str:
        path = tmp_path / "text.md"
        path.write_text(text, encoding="utf-8")
        process = forge.start(TINY_SERVER, [str(tmp_path / "books"), "--text", str(path), *options])
        started.append(process)
        url = process.stdout.readline().strip()
        assert url, "the server did not start"
        return url

    yield start
    for process in started:
        process.terminate()
        process.wait(30)
        process.close()


@pytest.mark.parametrize("options", [(), ("--base",)], ids=["chat model", "base model"])
@pytest.mark.parametrize("limit", [(), ("--max-tokens", "3")], ids=["no limit", "limit"])
def test_every_kind_of_model_answers_with_and_without_a_limit(
    serve, options, limit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = serve(" and on it goes, for quite a while", *options)
    monkeypatch.setattr(chat.sys, "stdin", io.StringIO("Once upon a time\nOnce more\n"))
    assert main(["chat", "--url", url, *limit]) == 0
    told = capsys.readouterr()
    whole = " and on it goes, for quite a while\n" * 2
    assert (told.out == whole) == (limit == ())
    assert told.out
    assert told.err.count("$") == 2, "each reply has its cost line"


def test_a_model_of_the_server_can_be_named(
    serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = serve("yes", "--model", "one", "--model", "two-base")
    for name, status, told in (("two-base", 0, "yes\n"), ("three", 1, "")):
        monkeypatch.setattr(chat.sys, "stdin", io.StringIO("Once upon a time\n"))
        assert main(["chat", name, "--url", f"{url}/v1"]) == status
        out, err = capsys.readouterr()
        assert out == told
        assert status == 0 or ("three" in err and "two-base" in err), "the error names the models there are"
