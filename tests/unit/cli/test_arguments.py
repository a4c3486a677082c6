"""Arguments: a settings file, then the command line; what is printed reads back; the unknown is refused."""

import importlib
import inspect
import re
import tomllib
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import pytest

from tuition.cli import main as program
from tuition.cli.arguments import COMMON, Common, Flat, choose, parse, positionals
from tuition.core.errors import SettingsError
from tuition.core.settings import table_to_toml, to_table
from tuition.train.recipes.pretrain_settings import PretrainSettings
from tuition.train.recipes.table import RECIPES
from tuition.train.settings import TrainSettings


@dataclass(frozen=True)
class Inner:
    """Inside."""

    rate: float = 0.5
    """Per second."""


@dataclass(frozen=True)
class Main:
    """On the top level."""

    budget: str | None = None
    """With a unit."""
    inner: Inner = field(default_factory=Inner)
    """Nested."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Common):
    """All of it."""

    main: Annotated[Main, Flat] = field(default_factory=Main)
    """Flat."""
    other: Inner = field(default_factory=Inner)
    """Apart."""
    resume: bool = False
    """Or not."""


def read(*words: str) -> Arguments:
    return parse(Arguments, list(words), verb="test", description="test")


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('budget = "4min"\nresume = true\n[inner]\nrate = 2\n[other]\nrate = 3.0\n')
    found = read("--settings", str(path), "--inner.rate", "7")
    assert (found.main.budget, found.main.inner.rate, found.other.rate, found.resume) == (
        "4min",
        7.0,
        3.0,
        True,
    )


def test_what_is_printed_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--budget", "1h", "--other.rate", "0.25", "--resume"]
    with pytest.raises(SystemExit) as ended:
        read(*words, "--print-settings")
    assert ended.value.code == 0
    path = tmp_path / "a.toml"
    path.write_text(capsys.readouterr().out)
    found = read(f"--settings={path}")
    assert (found.main, found.other, found.resume) == (read(*words).main, read(*words).other, True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('bugdet = "1h"', "did you mean budget"),
        ("[inner]\nrat = 1", r"inner\.rat"),
        ("[other]\nrat = 1", r"other\.rat"),
        ("budget = 4", "budget"),
        ("debug = true", "debug"),
        ("main = 3", "main"),
    ],
)
def test_unknown_or_wrong_keys_of_a_file_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=complaint):
        read("--settings", str(path))


def test_the_settings_stored_with_a_run_can_be_fed_back(tmp_path: Path) -> None:
    from tuition.cli.train import arguments_of

    settings, own = TrainSettings(name="bard", steps=12), PretrainSettings(vocab_size=1024)
    path = tmp_path / "settings.toml"
    path.write_text(table_to_toml({"recipe": "pretrain"} | to_table(settings) | to_table(own)))
    kind = arguments_of(RECIPES["pretrain"])
    found = parse(kind, ["--settings", str(path)], verb="train", description="")
    assert (found.train, found.own) == (settings, own)


def test_an_unknown_action_is_refused_by_name() -> None:
    assert choose({"list": "", "show": ""}, ["show", "x"], verb="v", default="list") == ("show", ["x"])
    assert choose({"list": "", "show": ""}, ["--debug"], verb="v", default="list") == ("list", ["--debug"])
    with pytest.raises(SettingsError, match="one of list, show"):
        choose({"list": "", "show": ""}, ["shwo"], verb="v", default="list")


def settings_classes() -> list[type]:
    """Every argument dataclass of every verb, and every dataclass inside."""
    found: dict[type, None] = {}

    def visit(kind: Any) -> None:
        if is_dataclass(kind) and isinstance(kind, type) and kind not in found:
            found[kind] = None
            for hint in get_type_hints(kind).values():
                visit(hint)
                for inner in getattr(hint, "__args__", ()):
                    visit(inner)

    for verb in program.VERBS:
        module = importlib.import_module(f"tuition.cli.{verb}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Common) and value is not Common:
                visit(value)
    for entry in RECIPES.values():
        visit(entry.settings)
    return list(found)


def test_every_setting_has_help() -> None:
    """The text under a field is its help; a setting without it is a riddle on the command line."""
    from docstring_parser import parse_from_object

    silent = []
    for kind in settings_classes():
        told = {param.arg_name for param in parse_from_object(kind).params}
        own = [field.name for field in fields(kind) if field.name in inspect.get_annotations(kind)]
        silent += [f"{kind.__name__}.{name}" for name in own if name not in told]
    assert silent == []


def test_settings_that_end_in_a_unit_say_it_in_their_help() -> None:
    from docstring_parser import parse_from_object

    units = {"_s": "second", "_seconds": "second", "_bytes": "byte", "_watts": "watt", "_usd": "dollar"}
    vague = []
    for kind in settings_classes():
        for param in parse_from_object(kind).params:
            for ending, word in units.items():
                if param.arg_name.endswith(ending) and not re.search(
                    word, param.description or "", re.IGNORECASE
                ):
                    vague.append(f"{kind.__name__}.{param.arg_name}")
    # cache_bytes shows its unit by example, `2GiB`
    assert [name for name in vague if not name.endswith("cache_bytes")] == []


def verbs() -> list[type[Common]]:
    """The argument dataclass of every verb and of every action of one."""
    return [kind for kind in settings_classes() if issubclass(kind, Common) and kind is not Common]


def printed(kind: type[Common], words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(kind, [*words, "--print-settings"], verb="test", description="")
    assert ended.value.code == 0
    return capsys.readouterr().out


ASKED = {
    "Generate": ["m", "a text"],
    "AddModel": ["m", "/a/path"],
    "Compare": ["m", "other"],
    "Train": [],
}
"""Words that a verb cannot do without, where one word `m` is not the right number of them."""


def test_the_texts_of_train_are_its_setting_data_paths(capsys: pytest.CaptureFixture[str]) -> None:
    from tuition.cli.train import arguments_of

    kind = arguments_of(RECIPES["pretrain"])
    assert printed(kind, ["a.txt", "b"], capsys) == printed(kind, ["--data.paths", "a.txt", "b"], capsys)


def words_of(kind: type[Common]) -> list[str]:
    return ASKED.get(kind.__name__, ["m"] if any(f.name in positionals(kind) for f in fields(kind)) else [])


def other_values(kind: type[Common]) -> list[str]:
    """An option of each kind, set to something else than its default."""
    hints, found = get_type_hints(kind), []
    for part in fields(kind):
        if part.name not in COMMON and hints[part.name] is bool and part.default is False:
            found.append(f"--{part.name}")
    return found + (["--machine.usd-per-hour", "0.5"] if "machine" in hints else [])


@pytest.mark.parametrize("kind", verbs(), ids=lambda kind: kind.__name__)
def test_what_any_verb_prints_it_reads_back(
    kind: type[Common], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without positionals, which are no settings; a file is completed by the words on the command line."""
    changed, words, path = other_values(kind), words_of(kind), tmp_path / "a.toml"
    text = printed(kind, changed, capsys)
    assert not positionals(kind) & set(tomllib.loads(text))
    assert printed(kind, [*words, *changed], capsys) == text
    path.write_text(text)
    found = parse(kind, [*words, "--settings", str(path)], verb="test", description="")
    assert replace(found, settings=None) == parse(kind, [*words, *changed], verb="test", description="")
    assert printed(kind, ["--settings", str(path)], capsys) == text


def test_the_command_line_may_complete_a_file(tmp_path: Path) -> None:
    """What is wrong or missing in the file alone is no error: both are checked together."""
    from tuition.cli.eval import Eval
    from tuition.cli.train import arguments_of

    path = tmp_path / "a.toml"
    path.write_text('[data]\ndemo = "shakespeare"\n[machine.owned]\nlife_years = 2')
    words = ["m", "--settings", str(path), "--machine.owned.price-usd", "900"]
    found = parse(Eval, words, verb="eval", description="")
    assert (found.model, found.data.demo) == ("m", "shakespeare")
    assert found.machine.owned is not None
    assert found.machine.owned.price_usd == 900
    with pytest.raises(SettingsError, match=r"eval: missing --machine.owned.price-usd .*US dollars"):
        parse(Eval, words[:3], verb="eval", description="")
    with pytest.raises(SettingsError, match=r"eval: missing MODEL "):
        parse(Eval, words[1:], verb="eval", description="")
    path.write_text("[shape]\nhidden_size = 250\nnum_heads = 4")
    parse(
        arguments_of(RECIPES["pretrain"]),
        ["--settings", str(path), "--shape.num-heads", "5", "--shape.num-kv-heads", "5"],
        verb="train",
        description="",
    )
    with pytest.raises(SettingsError, match=r"shape\.hidden_size"):
        parse(arguments_of(RECIPES["pretrain"]), ["--settings", str(path)], verb="train", description="")


def test_what_only_the_command_line_says_is_refused_in_a_file(tmp_path: Path) -> None:
    from tuition.cli.eval import Eval

    path = tmp_path / "a.toml"
    path.write_text("debug = true")
    with pytest.raises(SettingsError, match="debug: got True, wanted it on the command line"):
        parse(Eval, ["m", "--settings", str(path)], verb="eval", description="")
