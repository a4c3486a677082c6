"""A command line that cannot be read: one line with what came, what was wanted, and how to see more."""

import re

import pytest
import tyro

from tuition.cli.arguments import CONFIG
from tuition.cli.main import USAGE, main
from tuition.cli.train import DESCRIPTION, arguments_of
from tuition.cli.usage import refusal
from tuition.train.recipes.table import RECIPES

LONG = "x" * 150


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "train --budge 4min",
            r"train: unknown option --budge; did you mean --budget STR\?",
        ),
        (
            "train --optimizer.muon=1",
            r"train: unknown option --optimizer.muon; did you mean --optimizer.muon-.*\?",
        ),
        ("train --xyzzy 3", "train: unknown option --xyzzy"),
        (
            "train --data my.txt",
            r"train: unknown option --data; did you mean --data.paths\?",
        ),
        ("generate m x foo bar", "generate: unexpected argument 'foo bar'"),
        ("train --steps x", "--steps: got 'x', wanted a whole number"),
        ("train --batch-size 1.5", "--batch-size: got '1.5', wanted a whole number"),
        ("train --optimizer.lr fast", "--optimizer.lr: got 'fast', wanted a number"),
        (f"train --seed {LONG}", f"--seed: got '{LONG}', wanted a whole number"),
        ("train --steps", "--steps: nothing given, wanted a value after the option"),
        ("generate m x --sampling.logit-bias 3 x", "--sampling.logit-bias: got '3 x', wanted .*INT FLOAT.*"),
        (
            "generate m x --engine.runner foo",
            "--engine.runner: got 'foo', wanted one of 'auto', 'torch', 'native'",
        ),
        ("bill --format xml", "--format: got 'xml', wanted one of 'table', 'json', 'csv'"),
        (
            "eval --part train",
            r"eval: missing MODEL \(Name, name@version, folder or GGUF file\)",
        ),
        ("models show", r"models show: missing [A-Z]+ \(Name, name@version, or .*\)"),
        (
            "models add x",
            r"models add: missing [A-Z]+ \(A Hugging Face folder .*\)",
        ),
    ],
)
@pytest.mark.parametrize("columns", ["40", None])
def test_what_cannot_be_read_is_one_line(
    words: str,
    line: str,
    columns: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On a narrow terminal as on a wide one, where the parser's box would be wrapped."""
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert main(words.split()) == USAGE
    told = capsys.readouterr()
    verb = words.split(" -")[0].removesuffix(" foo bar").removesuffix(" m x").removesuffix(" x")
    verb = "bill statement" if verb == "bill" else verb
    assert told.out == ""
    assert re.fullmatch(f"tuition: {line}; see: tuition {verb} --help\n", told.err), told.err


def test_help_is_the_parsers_own(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr()
    assert told.err == ""
    with pytest.raises(SystemExit):
        tyro.cli(
            arguments_of(RECIPES["pretrain"]),
            args=["--help"],
            prog="tuition train",
            description=DESCRIPTION,
            config=CONFIG,
        )
    assert told.out == capsys.readouterr().out
    assert told.out.startswith("usage: tuition train [-h]")


def test_a_box_without_frame_characters_is_read_as_well() -> None:
    """Where the terminal is not UTF-8, rules are dashes and there is no frame."""
    box = (
        " Unrecognized options \n --------------------- \n  Unrecognized options: --budge, 4min\n"
        "  ------------------\n  Perhaps you meant:\n      --budget STR\n          Wall time.\n\n"
    )
    assert "unknown option --budge;" in str(refusal(box, "train", ["--budge", "4min"]))
    assert "did you mean --budget STR?;" in str(refusal(box, "train", ["--budge", "4min"]))


def test_what_is_new_to_us_is_told_in_the_parsers_words() -> None:
    told = str(refusal("╭─ Odd ───╮\n│ two     │\n│ lines   │\n╰─────────╯\n", "train", ["a", "b"]))
    assert told == "train: got 'a b', wanted valid arguments (Odd two lines); see: tuition train --help"
