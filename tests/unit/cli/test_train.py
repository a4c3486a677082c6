"""What a run keeps about itself does not depend on the folder where it was begun."""

from pathlib import Path

import pytest

from tuition.cli import train as verb
from tuition.cli.main import main
from tuition.cli.train import from_anywhere, whole
from tuition.data.settings import DataSettings
from tuition.train.recipe import Recipe
from tuition.train.recipes.finetune_settings import FinetuneSettings
from tuition.train.recipes.pretrain_settings import PretrainSettings
from tuition.train.settings import TrainSettings

TEXT = "The cat sat on the mat. The dog sat on the log. A bird sang in the tree, and the cat looked up.\n"
TINY = [
    "--name", "tiny", "--steps", "2", "--vocab-size", "300", "--data.heldout-share", "0.3",
    "--shape.hidden-size", "32", "--shape.num-layers", "1", "--shape.mlp-size", "64", "--seq-len", "32",
    "--batch-size", "2", "--evaluation.times", "0", "--evaluation.sample-tokens", "0",
]  # fmt: skip


class Taken(Exception):  # noqa: N818 - no error: the test has what it came for
    """Instead of the run: the settings that it was given."""


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of text below the home folder, and an empty workspace."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TUITION_HOME", str(tmp_path / "workspace"))
    folder = tmp_path / "letters"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.txt").write_text(TEXT * (20 + number))
    (tmp_path / "elsewhere").mkdir()
    return folder


def settings_of(words: list[str], monkeypatch: pytest.MonkeyPatch) -> PretrainSettings:
    """What `tuition train` hands to the run."""

    def take(settings: TrainSettings, recipe: Recipe, *_: object, **__: object) -> None:
        raise Taken(recipe.settings)

    monkeypatch.setattr("tuition.train.run.run_training", take)
    with pytest.raises(Taken) as taken:
        verb.run(words)
    return taken.value.args[0]


def test_one_place_has_one_path(letters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run and resume compare settings: wherever each was typed, they name the same files."""
    home = letters.parent
    (home / "elsewhere" / "link").symlink_to(home / "elsewhere")
    (home / "words.txt").symlink_to(letters / "0.txt")
    monkeypatch.chdir(home / "elsewhere")
    for typed in (
        "../letters",
        "~/letters",
        str(letters),
        "../elsewhere/../letters",
        "link/../letters",
    ):
        assert whole(Path(typed)) == letters, typed
    assert whole(Path("..")) == home
    assert whole(Path("../words.txt")) == home / "words.txt"  # a link to a blob would have no extension
    assert whole(Path("~nobody-of-this-name/x")).is_absolute()


def test_paths_of_a_run_are_whole_before_it_starts(letters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = letters.parent
    (home / "a.toml").write_text('tokenizer = "~/tokenizer.json"\n[data]\npaths = ["~/letters"]\n')
    from_file = settings_of(["--settings", str(home / "a.toml"), *TINY], monkeypatch)
    monkeypatch.chdir(home / "elsewhere")
    words = ["--data.paths", "../letters", "--tokenizer", "../tokenizer.json", *TINY]
    assert settings_of(words, monkeypatch) == from_file
    assert (from_file.data.paths, from_file.tokenizer) == ((letters,), home / "tokenizer.json")


def test_what_names_no_path_stays_as_it_is() -> None:
    settings = PretrainSettings(data=DataSettings(demo="stdlib"))
    assert from_anywhere(settings) == settings


def test_a_model_is_scored_on_its_own_text_from_another_folder(
    letters: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text is found where the run read it, and a run that was stopped is found to be the same."""
    monkeypatch.chdir(letters.parent)
    assert main(["train", "--data.paths", "letters", *TINY]) == 0
    (result,) = (letters.parent / "workspace" / "runs").glob("*/result.json")
    result.unlink()  # as if it had been killed at its very end
    monkeypatch.chdir(letters.parent / "elsewhere")
    capsys.readouterr()
    assert main(["eval", "tiny"]) == 0
    assert "bits per byte over" in capsys.readouterr().out
    assert main(["train", "--data.paths", "../letters", "--resume", *TINY]) == 0
    assert "resuming tiny-" in capsys.readouterr().err


def test_a_named_run_is_resumed_without_any_other_setting(
    letters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its model or its id; without a name the newest that has a checkpoint; an unknown name is refused."""
    runs = letters.parent / "workspace" / "runs"
    assert main(["train", "--data.paths", str(letters), *TINY]) == 0
    for number, words in enumerate((["tiny"], [], ["id"])):
        (result,) = runs.glob("*/result.json")
        result.unlink()  # as if it had been killed at its very end
        capsys.readouterr()
        named = [word.replace("id", result.parent.name) for word in words]
        assert main(["train", "--resume", *named, "--threads", "1"]) == 0, number
        assert f"resuming {result.parent.name}" in capsys.readouterr().err
    assert main(["train", "--resume", "tiny"]) != 0
    assert "every run that 'tiny' means is finished" in capsys.readouterr().err
    assert main(["train", "--resume", "--steps", "3"]) != 0
    assert "every run in this workspace is finished" in capsys.readouterr().err
    assert main(["train", "--resume", "nobody"]) != 0
    assert "no unfinished run named 'nobody'" in capsys.readouterr().err


def test_a_resumed_run_refuses_other_settings_with_both_values(
    letters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data.paths", str(letters), *TINY]) == 0
    next((letters.parent / "workspace" / "runs").glob("*/result.json")).unlink()
    capsys.readouterr()
    assert main(["train", "--resume", "tiny", "--batch-size", "7"]) != 0
    assert "--batch-size: got 7, wanted 2 as in tiny-" in capsys.readouterr().err


def test_a_model_of_the_hub_is_no_path() -> None:
    """`--from hf:ORG/NAME` has a separator and stays as it was written."""
    assert from_anywhere(FinetuneSettings(base="hf:Org/Tiny")).base == "hf:Org/Tiny"
    assert from_anywhere(FinetuneSettings(base="models/tiny")).base == str(Path("models/tiny").absolute())
