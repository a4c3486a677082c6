"""Kinds of values in plain words, for messages.

In: a value, as JSON or TOML has it, or the type of a setting.  Out: words such as "a number", "a list of
texts".
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

_ONE: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    type(None): "left out",
}
_MANY = {str: "texts", int: "whole numbers", float: "numbers", Path: "paths"}


def value_in_words(value: object) -> str:
    """What a value is, like "a list"."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "null"
    return "a number" if type(value) in (int, float) else _ONE.get(type(value), type(value).__name__)


def type_in_words(kind: Any) -> str:
    """What a value of this type is, like "a list of texts"."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is typing.Annotated:
        return type_in_words(args[0])
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(type_in_words, args)))
    if origin in (tuple, list):
        items = [item for item in args if item is not Ellipsis]
        is_uniform = len(items) == 1 and items[0] in _MANY
        return f"a list of {_MANY[items[0]]}" if is_uniform else "a list"
    if dataclasses.is_dataclass(kind) or origin in (dict, Mapping):
        return "a table"
    return _ONE.get(kind, getattr(kind, "__name__", str(kind)))
