"""Settings: frozen dataclasses, filled from a TOML file, then the command line; unknown keys are refused.

In: a dataclass type and a TOML file.  Out: an instance, or its settings as TOML text that can be fed back.
"""

import dataclasses
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tuition.core.errors import SettingsError
from tuition.core.words import type_in_words

T = TypeVar("T")

Build = Callable[[Any, dict[str, Any], str], Any]
"""Makes an instance of a dataclass from converted values; the last argument is where they stood, like
`machine.owned.`."""


def read_settings(cls: type[T], path: Path) -> T:
    """Read a TOML file into `cls`. Raises: SettingsError for unknown keys, wrong types, unreadable files."""
    return from_table(cls, read_table(path))


def read_table(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises: SettingsError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            "settings file", got=str(path), wanted=f"a readable TOML file ({error})"
        ) from error


def complete(cls: type[T], values: dict[str, Any], prefix: str) -> T:
    """An instance, checked. Raises: SettingsError, also where a value without default is missing."""
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if is_required(field) and field.name not in values:
            raise SettingsError(prefix + field.name, got=None, wanted="a value, since it has no default")
    return cls(**values)


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether an instance cannot be made without a value for it."""
    no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return field.init and no_default


def from_table(cls: type[T], table: Mapping[str, Any], prefix: str = "", build: Build = complete) -> T:
    """Make the dataclass `cls`, and those inside it, from nested tables. Raises: SettingsError."""
    hints = get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f"; did you mean {prefix}{close[0]}?" if close else ""
            raise SettingsError(
                prefix + key, got=table[key], wanted=f"one of {', '.join(sorted(known))}{hint}"
            )
    values = {key: _convert(hints[key], value, prefix + key, build) for key, value in table.items()}
    return build(cls, values, prefix)


def _convert(kind: Any, value: Any, name: str, build: Build) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin is typing.Annotated:
        return _convert(args[0], value, name, build)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return from_table(kind, value, f"{name}.", build)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        tables = [option for option in args if dataclasses.is_dataclass(option)]
        if isinstance(value, Mapping) and len(tables) == 1:
            return _convert(tables[0], value, name, build)  # its own error names the key
        for option in args:
            try:
                return _convert(option, value, name, build)
            except SettingsError:
                continue
    elif origin is Literal:
        if value in args:
            return value
    elif origin in (tuple, list) and isinstance(value, (list, tuple)):
        return _convert_items(args, value, name, build)
    elif kind is float and type(value) in (int, float):
        return float(value)
    elif kind is Path and isinstance(value, str) and value:
        return Path(value)
    elif kind is Any or (isinstance(kind, type) and type(value) is kind):
        return value
    raise SettingsError(name, got=value, wanted=type_in_words(kind))


def _convert_items(kinds: tuple[Any, ...], values: Any, name: str, build: Build) -> tuple[Any, ...]:
    """Items of a tuple: all of one kind, or each of its own (`tuple[int, float]`)."""
    if len(kinds) == 1 or kinds[-1] is Ellipsis:
        return tuple(_convert(kinds[0], item, name, build) for item in values)
    if len(kinds) != len(values):
        raise SettingsError(name, got=values, wanted=f"{len(kinds)} values")
    return tuple(_convert(kind, item, name, build) for kind, item in zip(kinds, values, strict=True))


def to_table(settings: Any) -> dict[str, Any]:
    """Nested tables of plain values; what is None is left out."""
    table: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is not None and field.init:
            table[field.name] = _plain(value)
    return table


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_table(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def table_to_toml(table: Mapping[str, Any]) -> str:
    """Nested tables of plain values as TOML text, which `tomllib.loads` reads back."""
    lines: list[str] = []
    _write_table(table, "", lines)
    return "\n".join(lines).strip() + "\n"


def _write_table(table: Mapping[str, Any], prefix: str, lines: list[str]) -> None:
    nested = {key: value for key, value in table.items() if isinstance(value, dict)}
    lines += [f"{key} = {_toml_value(value)}" for key, value in table.items() if key not in nested]
    for key, value in nested.items():
        lines += ["", f"[{prefix}{key}]"]
        _write_table(value, f"{prefix}{key}.", lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    return repr(value)
