"""Errors name a field (`data.paths`, `batch_size`); at the command line they name the option that sets it.

In: an error and the verb.  Out: its text with `--data.paths`, `--batch-size`. A Python program that sets the
field sees the text as it was raised.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, get_type_hints

from tuition.cli.arguments import Common, Flat, flat_fields, positionals
from tuition.core.errors import CapacityError, SettingsError, TuitionError

_NAME = re.compile(r"""(?<![\w./'"=-])[a-z][a-z0-9]*(?:[._][a-z0-9]+)+(?![\w/'"=(-])""")
"""A name of several words: a single one may be plain English."""


def at_command_line(error: TuitionError, verb: str) -> str:
    """The text of an error with the options of `verb` in place of the fields."""
    text = str(error)
    if not isinstance(error, (SettingsError, CapacityError)):
        return text
    options, taken = options_of(verb)
    head = ""
    if isinstance(error, SettingsError) and text.startswith(f"{error.field}:"):
        head, text = error.field, text.removeprefix(error.field)
        head = head if head in taken else option_of(head, options)
    return head + _NAME.sub(lambda found: option_of(found[0], options), text)


def option_of(name: str, options: set[str]) -> str:
    """The option that sets a field, named in full or by its last part; `name` where none or several do."""
    found = {name} & options or {each for each in options if each.endswith(f".{name}")}
    return "--" + found.pop().replace("_", "-") if len(found) == 1 else name


def options_of(verb: str) -> tuple[set[str], set[str]]:
    """The options of a verb by name, like `data.paths`, and its arguments that are given without a name."""
    kinds = [kind for kind in _kinds(Common) if any(_is_of(verb, base) for base in kind.__mro__)]
    taken = {name for kind in kinds for name in positionals(kind)}
    return {name for kind in kinds for name in _names(kind)} - taken, taken


def _kinds(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        yield each
        yield from _kinds(each)


def _is_of(verb: str, kind: type) -> bool:
    return kind.__module__.startswith(f"tuition.cli.{verb}")


def _names(kind: type, prefix: str = "") -> Iterator[str]:
    hints, extras = get_type_hints(kind), get_type_hints(kind, include_extras=True)
    flat = flat_fields(kind) if issubclass(kind, Common) else []
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        inner = hints[field.name]
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            yield from _names(inner, prefix if field.name in flat else f"{prefix}{field.name}.")
        else:
            yield prefix + (_given_name(extras[field.name]) or field.name)


def _given_name(hint: Any) -> str | None:
    """The name that `tyro.conf.arg(name=...)` gives an option, like `from`; None: that of its field."""
    given = (each for each in getattr(hint, "__metadata__", ()) if isinstance(each, type(Flat)))
    return next((getattr(each, "name", None) for each in given), None)
