"""A command line that cannot be read: one line with what came, what was wanted, and how to see more."""

import contextlib
import dataclasses
import itertools
import re
from typing import get_type_hints

import pytest

from tuition.cli import bill, serve
from tuition.cli.field_help import help_of
from tuition.cli.main import USAGE, main
from tuition.cli.option_names import at_command_line
from tuition.cli.train import arguments_of
from tuition.cli.usage import refusal
from tuition.core.errors import DataError, SettingsError, TuitionError
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
        ("train --tokenizer=", r"--tokenizer: got '', wanted a path; is a variable unset\?"),
        ("train --steps", "--steps: nothing given, wanted a value after the option"),
        ("generate m x --sampling.logit-bias 3 x", "--sampling.logit-bias: got '3 x', wanted .*INT FLOAT.*"),
        (
            "generate m x --engine.runner foo",
            "--engine.runner: got 'foo', wanted one of 'auto', 'torch', 'native'",
        ),
        ("bill --format xml", "--format: got 'xml', wanted one of 'table', 'json', 'csv'"),
        (
            "eval --part train",
            r"eval: missing MODEL \(Name, name@version, folder or GGUF file; .*\)",
        ),
        ("models show", r"models show: missing [A-Z]+ \(Name, name@version, or .*\)"),
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


@pytest.mark.parametrize("columns", [80, 100, 140])
@pytest.mark.parametrize("words", ["train", "bill check", "serve"])
def test_help_fills_the_terminal(
    words: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line ends where the next word has no room, and an option that may be left out has no default."""
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.startswith(f"usage: tuition {words} [-h]")
    assert "(default: None)" not in told.out
    assert "(default: )" not in told.out
    lines = [re.sub(r"^│|│$", "", line).rstrip() for line in told.out.splitlines()]
    assert not any("│" in line for line in lines), "one box below the other"
    indent = max(len(found[0]) for line in lines if (found := re.match(r" {10,}(?=\S)", line)))
    text = re.compile(rf" {{{indent}}}\S")
    for line, following in itertools.pairwise(lines):
        if text.match(line) and text.match(following):
            word = following.split()[0]
            assert len(line) + 1 + len(word) > min(columns, 110) - 4, f"{line!r} has room for {word!r}"


@pytest.mark.parametrize("columns", [60, 100])
@pytest.mark.parametrize("words", ["", "data", "models", "eval", "compare", "train"])
def test_descriptions_fit_the_terminal(
    words: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prose and lists are wrapped between words, paragraphs stay apart; an example is one line to copy."""
    monkeypatch.setenv("COLUMNS", str(columns))
    with contextlib.suppress(SystemExit):
        main([*words.split(), "--help"])
    usage, description = capsys.readouterr().out.partition("╭")[0].split("\n", 1)
    assert usage.startswith("usage: tuition")
    assert "\n\n\n" not in description.rstrip()
    prose = [line for line in description.splitlines() if not re.match(r" {2}(tuition |\{)", line)]
    if words != "eval":  # has a table, which stays as it is
        assert max(map(len, prose)) <= columns


@pytest.mark.parametrize("kind", [bill.CheckSheet, serve.Serve, arguments_of(RECIPES["pretrain"])])
def test_every_option_has_its_description(kind: type) -> None:
    """Read from the source of the class that defines the field; a group's fields have their own."""

    def check(kind: type) -> None:
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if dataclasses.is_dataclass(hints[field.name]):
                check(hints[field.name])
            else:
                text = help_of(kind, field.name)
                assert text, f"{kind.__name__}.{field.name}"
                assert "\n" not in text.replace("\n\n", "")

    check(kind)


@pytest.mark.parametrize(
    ("error", "verb", "told"),
    [
        (SettingsError("budget", got=1, wanted="x"), "train", "--budget: got 1, wanted x"),
        (SettingsError("from", got=1, wanted="x"), "train", "--from: got 1, wanted x"),
        (SettingsError("name", got=1, wanted="x"), "train", "--name: got 1, wanted x"),
        (SettingsError("batch_size", got=1, wanted="x"), "train", "--batch-size: got 1, wanted x"),
        (
            SettingsError("paths", got=1, wanted="data.field"),
            "train",
            "--data.paths: got 1, wanted --data.field",
        ),
        (SettingsError("max_batch", got=1, wanted="x"), "serve", "--engine.max-batch: got 1, wanted x"),
        (
            SettingsError("steps", got="data.paths", wanted="x"),
            "train",
            "--steps: got 'data.paths', wanted x",
        ),
        (SettingsError("model name", got=1, wanted="x"), "train", "model name: got 1, wanted x"),
        (SettingsError("texts", got=1, wanted="x"), "train", "texts: got 1, wanted x"),
        (SettingsError("kind", got=1, wanted="--data.paths"), "bill", "kind: got 1, wanted --data.paths"),
        (DataError("a.csv", problem="no batch_size", way_out="x"), "train", "a.csv: no batch_size; x"),
    ],
)
def test_an_error_names_the_option(error: TuitionError, verb: str, told: str) -> None:
    """`parse` has made the dataclass of the verb by then, as here."""
    kinds = [
        arguments_of(RECIPES["pretrain"]),
        arguments_of(RECIPES["finetune"]),
        serve.Serve,
        bill.CheckSheet,
    ]
    assert at_command_line(error, verb) == told
    assert kinds
    assert isinstance(error, DataError) or str(error).startswith(f"{error.field}: "), "as Python sees it"


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
