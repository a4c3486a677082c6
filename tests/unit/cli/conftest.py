"""A workspace with a tiny model that was taught by `tuition train`, and the command line in it."""

from pathlib import Path

import pytest

from tuition.cli.main import main

TEXT = "The cat sat on the mat. The dog sat on the log. A bird sang in the tree, and the cat looked up.\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which a model named `tiny` was taught by `tuition train`."""
    folder = tmp_path_factory.mktemp("verbs")
    for number in range(12):
        (folder / f"{number}.txt").write_text(TEXT * (20 + number))
    words = [
        "train", "--workspace", str(folder / "home"), "--name", "tiny", "--steps", "3", "--vocab-size", "300",
        "--data.paths", str(folder), "--data.include", "*.txt", "--data.heldout-share", "0.2",
        "--shape.hidden-size", "32", "--shape.num-layers", "1", "--shape.mlp-size", "64",
        "--shape.context-length", "64", "--seq-len", "32", "--batch-size", "4", "--evaluation.times", "0",
        "--evaluation.sample-tokens", "0",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUITION_HOME", str(folder / "home"))
        assert main(words) == 0
    return folder / "home"


@pytest.fixture
def tuition(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`tuition(verb, ...)` in that workspace: status, stdout, stderr."""
    monkeypatch.setenv("TUITION_HOME", str(home))

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main(list(words))
        except SystemExit as ended:
            status = int(ended.code or 0)
        told = capsys.readouterr()
        return status, told.out, told.err

    return run
