"""`tuition train --from`: the recipe follows from the files; options that cannot hold are refused."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tuition.cli.machine import measured_for
from tuition.cli.train import chosen_recipe, files_in, from_anywhere, values_of
from tuition.core.errors import DataError, SettingsError
from tuition.core.workspace import open_workspace
from tuition.data.settings import ExampleSettings
from tuition.runtime import speed
from tuition.spec.settings import MachineSettings
from tuition.train.recipes.finetune_settings import FinetuneSettings
from tuition.train.settings import TrainSettings


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    examples, text = tmp_path / "rows.jsonl", tmp_path / "notes.txt"
    examples.write_text('{"prompt": "2 + 2", "completion": "4"}\n{"prompt": "1 + 2", "completion": "3"}\n')
    text.write_text("plain text\n")
    return examples, text


@pytest.mark.parametrize(
    "words",
    [
        "--from base --data.paths {file} --budget 5min",
        "--from=base --data.paths={file}",
        "{file} --from base",
        "--budget 5min --from base {file}",
    ],
)
def test_the_recipe_follows_from_the_files(files: tuple[Path, Path], words: str) -> None:
    examples, text = files
    assert chosen_recipe(words.format(file=examples).split()).name == "finetune"
    assert chosen_recipe(words.format(file=text).split()).name == "continue"


def test_columns_that_are_named_choose_too(files: tuple[Path, Path], tmp_path: Path) -> None:
    """A file of no known form holds examples where its fields are named as such, and text where that is."""
    faq = tmp_path / "faq.csv"
    faq.write_text("question,answer\n2 + 2,4\n")
    words = ["--from", "base", str(faq)]
    with pytest.raises(DataError, match=r"--data\.prompt-field question --data\.completion-field answer"):
        chosen_recipe(words)
    named = ["--data.prompt-field", "question", "--data.completion_field=answer"]
    assert chosen_recipe([*words, *named]).name == "finetune"
    assert chosen_recipe([*words, "--data.field", "answer"]).name == "continue"
    table = tmp_path / "run.toml"
    table.write_text(f'base = "tiny"\n[data]\npaths = ["{faq}"]\nfield = "question"\n')
    assert chosen_recipe(["--settings", str(table)]).name == "continue"
    table.write_text(f'base = "tiny"\n[data]\npaths = ["{faq}"]\nprompt_field = "question"\n')
    assert chosen_recipe(["--settings", str(table)]).name == "finetune"


def test_a_recipe_that_is_named_is_taken(files: tuple[Path, Path]) -> None:
    words = f"--from base {files[0]} --recipe continue".split()
    assert chosen_recipe(words).name == "continue"
    assert chosen_recipe([str(files[0])]).name == "pretrain"
    assert chosen_recipe(["--from", "base", "--data.demo", "shakespeare"]).name == "continue"


def test_a_settings_file_with_a_base_chooses_too(files: tuple[Path, Path], tmp_path: Path) -> None:
    table = tmp_path / "run.toml"
    table.write_text(f'base = "tiny"\n[data]\npaths = ["{files[1]}"]\n')
    assert chosen_recipe(["--settings", str(table)]).name == "continue"


@pytest.mark.parametrize("option", ["--shape.hidden-size", "--vocab-size", "--tokenizer", "--first-weights"])
def test_a_base_has_its_shape_and_tokenizer(files: tuple[Path, Path], option: str) -> None:
    with pytest.raises(SettingsError, match=f"{option}: got .* no such option with --from"):
        chosen_recipe(["--from", "base", str(files[0]), option, "64"])


def test_words_before_they_are_parsed(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files[0].parent)
    words = ["--control", "notes.txt", "rows.jsonl", "--name", "notes.txt", "--data.paths", "rows.jsonl"]
    assert files_in([*words, "notes.txt"]) == [Path("rows.jsonl"), Path("rows.jsonl"), Path("notes.txt")]
    assert values_of("--name", ["--name", "a", "--name=b"]) == ["a", "b"]


def test_a_peak_that_products_exceed_is_replaced_by_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And kept, so that all receipts of this machine have one peak."""
    workspace = open_workspace(tmp_path).create()
    speeds = iter((1.0, 1e15))
    monkeypatch.setattr(speed, "product_flops_per_s", lambda *_: next(speeds))
    assumed = measured_for(TrainSettings(), MachineSettings(), workspace)
    assert assumed.provenance("peak_flops") != "measured"
    for _ in range(2):
        machine = measured_for(TrainSettings(), MachineSettings(), workspace)
        assert (machine.peak_flops, machine.provenance("peak_flops")) == (1e15, "measured")
    given = measured_for(TrainSettings(), MachineSettings(peak_flops=5.0), workspace)
    assert given.peak_flops == 5.0


def test_paths_are_kept_whole(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is resumed from any folder."""
    home = files[0].parent
    monkeypatch.chdir(home)
    own = FinetuneSettings(
        base="models/tiny",
        control=Path("notes.txt"),
        data=ExampleSettings(paths=(Path("rows.jsonl"),), heldout_paths=(Path("held.jsonl"),)),
    )
    whole = from_anywhere(own)
    assert whole.base == str(home / "models/tiny")
    assert whole.control == home / "notes.txt"
    assert whole.data.paths == (home / "rows.jsonl",)
    assert whole.data.heldout_paths == (home / "held.jsonl",)
    assert from_anywhere(FinetuneSettings(base="tiny@1")).base == "tiny@1"


EARLY = {
    "--from tiny": "--budget: nothing given, wanted a budget like 4min, or a number of --steps or --epochs",
    "--from tiny --steps 2 --budget 1min": "--budget: got '--budget 1min and --steps 2', wanted one of",
    "--from tiny --epochs 1e300": "--epochs: got 1e+300, wanted more than 0, at most 2,147,483,647",
    "--from= --steps 2": "--from: got '', wanted the model to begin from",
    "--recipe finetune --steps 2": "--from: nothing given, wanted the model to begin from",
    "--from nosuch --steps 2": "no model named 'nosuch'",
    "--from {folder} --steps 2": "has no config.json",
    "--from {file} --steps 2": "rows.jsonl: ",
    "--from tiny --steps 2 --adapter none --lora.rank 4": "--lora.rank: got 4, wanted --adapter lora beside",
    "--from tiny --steps 2 --lora.alpha 1e39": "--lora.alpha: got 1e+39, wanted at most 1,000,000",
    "--from tiny --steps 2 --check none.jsonl": "name a file with --check",
}


def test_what_is_wrong_is_said_before_torch_is_loaded(files: tuple[Path, Path]) -> None:
    """On a busy machine torch takes half a minute to load."""
    places = {"folder": files[0].parent, "file": files[0]}
    asked = [f"train {files[0]} --name x {words.format(**places)}".split() for words in EARLY]
    code = (
        "import contextlib, io, sys\nfrom tuition.cli.main import main\n"
        f"for words in {asked!r}:\n"
        "    told = io.StringIO()\n"
        "    with contextlib.redirect_stderr(told): status = main(words)\n"
        "    print(status, 'torch' in sys.modules, told.getvalue(), end='')\n"
    )
    environment = os.environ | {"TUITION_HOME": str(files[0].parent / "home")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    lines = done.stdout.splitlines()
    assert len(lines) == len(EARLY), done.stderr
    for line, problem in zip(lines, EARLY.values(), strict=True):
        assert re.match(r"[12] False tuition: ", line), line
        assert problem in line
