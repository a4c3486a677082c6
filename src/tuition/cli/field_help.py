"""How an option is described: by the docstring of its field, as paragraphs that fill the terminal.

tyro keeps a line break before each indented line of a docstring, and says "(default: None)" of an option that
may be left out. Its registry lets us describe our own dataclasses. It also makes paths: an empty one is
refused, which would be the current folder.
"""

import ast
import dataclasses
import inspect
import itertools
import textwrap
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro
from tyro.constructors import (
    MISSING,
    MISSING_NONPROP,
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

REGISTRY = ConstructorRegistry()

EMPTY_PATH = "an empty path"


@REGISTRY.primitive_rule
def path_of(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    """Makes paths that are not empty; None for any other type."""
    if info.type is not Path:
        return None

    def parsed(words: list[str]) -> Path:
        if not words[0]:
            raise ValueError(EMPTY_PATH)
        return Path(words[0])

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=parsed,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


@REGISTRY.struct_rule
def describe(info: StructTypeInfo) -> StructConstructorSpec | None:
    """The fields of one of our dataclasses; None for any other type."""
    cls = info.type
    if not dataclasses.is_dataclass(cls) or not any(map(is_ours, cls.__mro__)):
        return None
    hints = get_type_hints(cls, include_extras=True)
    fields = []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        kind, hint = hints[field.name], tyro.conf.arg(help_behavior_hint=shown_default)
        is_group = dataclasses.is_dataclass(get_type_hints(cls)[field.name])
        fields.append(
            StructFieldSpec(
                name=field.name,
                type=kind if is_group else Annotated[kind, hint],  # type: ignore[arg-type]
                default=default_of(field, info.default),
                helptext=partial(help_of, cls, field.name),
            )
        )
    return StructConstructorSpec(cls, tuple(fields))


def is_ours(cls: type) -> bool:
    """Whether it is written in this package."""
    return cls.__module__.partition(".")[0] == "tuition"


def default_of(field: dataclasses.Field[Any], parent: Any) -> Any:
    """The default of a field: of the instance that is the parent's default, else its own."""
    if parent is MISSING:
        return MISSING
    if parent is not MISSING_NONPROP and hasattr(parent, field.name):
        return getattr(parent, field.name)
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING and field.default_factory is not field.type:
        return field.default_factory()
    return MISSING_NONPROP


def shown_default(label: str) -> str:
    """What follows the description: nothing where leaving the option out is what it says."""
    return "" if label in ("None", "", "''") else f"(default: {label})"


def help_of(cls: type, name: str) -> str | None:
    """The description of a field: its docstring in the class that defines it."""
    return next((docs[name] for owner in cls.__mro__ if name in (docs := field_docs(owner))), None)


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstrings behind the fields of a dataclass; each paragraph is one line."""
    if not is_ours(cls):  # a class that was made at run time has no source
        return {}
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    statements = body.body if isinstance(body, ast.ClassDef) else []
    docs = {}
    for field, doc in itertools.pairwise(statements):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if (
            isinstance(doc, ast.Expr)
            and isinstance(doc.value, ast.Constant)
            and isinstance(doc.value.value, str)
        ):
            paragraphs = inspect.cleandoc(doc.value.value).split("\n\n")
            docs[field.target.id] = "\n\n".join(" ".join(each.split()) for each in paragraphs)
    return docs
