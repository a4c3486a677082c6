"""Arguments of a verb: a frozen dataclass, filled from `--settings file.toml` and then from the command line.
File and command line are checked together, so either may complete the other.

A verb's dataclass derives from `Common` and may mark a field `Flat`: its settings stand on the top level, on
the command line (`--budget`, not `--train.budget`) and in the file, so that a run's settings can be fed back.
"""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import tyro

from tuition.cli.field_help import REGISTRY
from tuition.cli.help_text import filled, help_columns, listed
from tuition.cli.usage import DESCRIPTION, refused_in_one_line
from tuition.core.errors import SettingsError
from tuition.core.settings import from_table, is_required, read_table, table_to_toml, to_table

T = TypeVar("T", bound="Common")
D = TypeVar("D")

Flat = tyro.conf.arg(name="")
"""`field: Annotated[SomeSettings, Flat]`: the settings of this field stand on the top level."""

CONFIG = (
    tyro.conf.AvoidSubcommands,
    tyro.conf.DisallowNone,
    tyro.conf.PositionalMetavarFromFieldName,
)
"""How tyro reads every verb. Help shows MODEL [PROMPT], and an option that may be left out as PATH, not as
{None}|PATH."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every verb takes."""

    workspace: Path | None = None
    """Folder with models, runs and the books. Default: $TUITION_HOME, else ~/.tuition."""
    settings: Path | None = None
    """TOML file with settings of this verb; options override it, unknown keys are refused."""
    print_settings: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the settings as TOML for --settings, and exit. A model or prompt is not a setting."""
    debug: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show the traceback when something fails."""


COMMON = {field.name for field in dataclasses.fields(Common)}


def parse(kind: type[T], argv: Sequence[str], *, verb: str, description: str) -> T:
    """The arguments of one verb. Raises: SettingsError; SystemExit after help and printed settings."""
    path = settings_path(argv)
    values = {} if path is None else read_file(kind, path)
    if is_given("--print-settings", argv):
        values = blanks(kind) | values
    with refused_in_one_line(verb, argv, description):
        arguments = tyro.cli(
            kind,
            args=list(argv),
            default=draft(kind, values) if values else None,
            prog=f"tuition {verb}",
            description=DESCRIPTION,
            config=CONFIG,
            registry=REGISTRY,
        )
    if arguments.print_settings:
        sys.stdout.write(table_to_toml(settings_table(arguments)))
        raise SystemExit(0)
    if arguments.workspace is not None:  # child processes and caches follow
        os.environ["TUITION_HOME"] = str(arguments.workspace.expanduser().absolute())
    return arguments


def choose(
    actions: Mapping[str, str], argv: Sequence[str], *, verb: str, default: str
) -> tuple[str, list[str]]:
    """The action of a verb that has several, and the words after it. Raises: SettingsError; SystemExit."""
    words = list(argv)
    if words and words[0] in actions:
        return words[0], words[1:]
    if words and words[0] in ("-h", "--help"):
        print(f"usage: tuition {verb} [{'|'.join(actions)}] [options]\n")
        more = f"Without an action: {default}. tuition {verb} <action> --help lists its options."
        print(listed(actions, help_columns()) + "\n\n" + filled(more, help_columns()))
        raise SystemExit(0)
    if words and not words[0].startswith("-"):
        raise SettingsError("action", got=words[0], wanted=f"one of {', '.join(actions)}")
    return default, words


def is_given(option: str, argv: Sequence[str]) -> bool:
    """Whether an option without value is there, however it is spelled."""
    words = argv[: argv.index("--")] if "--" in argv else argv
    return any(word.replace("_", "-") == option for word in words)


def settings_path(argv: Sequence[str]) -> Path | None:
    """The file named by --settings, looked for before the rest is read, since it gives the defaults."""
    found = None
    for index, word in enumerate(argv):
        if word == "--":
            break
        if word == "--settings" and index + 1 < len(argv):
            found = argv[index + 1]
        elif word.startswith("--settings="):
            found = word.partition("=")[2]
    return None if found is None else Path(found)


def flat_fields(kind: type[Common]) -> list[str]:
    """Names of the fields whose settings stand on the top level."""
    hints = get_type_hints(kind, include_extras=True)
    return [name for name, hint in hints.items() if Flat in getattr(hint, "__metadata__", ())]


def positionals(kind: type[Common]) -> set[str]:
    """Names of the fields that are given without the name of an option."""
    hints = get_type_hints(kind, include_extras=True).items()
    return {name for name, hint in hints if tyro.conf.Positional in getattr(hint, "__metadata__", ())}


def blanks(kind: type[Common]) -> dict[str, Any]:
    """An empty value for each positional argument without a default."""
    hints, names = get_type_hints(kind), positionals(kind)
    return {f.name: hints[f.name]() for f in dataclasses.fields(kind) if f.name in names and is_required(f)}


def draft(cls: type[D], values: Mapping[str, Any], prefix: str = "") -> D:
    """An instance without its checks; the command line fills in what is missing."""
    found = object.__new__(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        value: Any
        if field.name in values:
            value = values[field.name]
        elif is_required(field):
            value = tyro.MISSING
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = field.default
        object.__setattr__(found, field.name, value)
    return found


def read_file(kind: type[Common], path: Path) -> dict[str, Any]:
    """The arguments of a verb in a settings file, unchecked. Raises: SettingsError for unknown keys."""
    table = read_table(path)
    hints, flat = get_type_hints(kind), flat_fields(kind)
    if common := COMMON & set(table):
        raise SettingsError(
            min(common), got=table[min(common)], wanted="it on the command line, not in a file"
        )
    top = {field.name for field in dataclasses.fields(kind)} - set(flat)
    values: dict[str, Any] = {}
    for name in flat:
        known = {field.name for field in dataclasses.fields(hints[name])}
        if last := name == flat[-1]:  # the last one refuses unknown keys, and names the known ones
            known |= set(table) - top
        own = {key: table.pop(key) for key in list(table) if key in known}
        values[name] = from_table(hints[name], own, build=draft)
        if last and (both := set(values) & set(table)):
            raise SettingsError(min(both), got=table[min(both)], wanted="a setting of this verb")
    rest = vars(from_table(kind, table, build=draft))
    return values | {name: rest[name] for name in table}


def settings_table(arguments: Common) -> dict[str, Any]:
    """The settings as nested tables, as `read_file` takes them: without positionals and `Common`."""
    left_out = COMMON | positionals(type(arguments))
    table = {name: value for name, value in to_table(arguments).items() if name not in left_out}
    top: dict[str, Any] = {}
    for name in flat_fields(type(arguments)):
        top |= table.pop(name)
    return top | table
