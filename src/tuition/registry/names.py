"""Names of models. A name is checked and looked up in a table; an unchecked name never becomes a path."""

import re
from typing import NamedTuple

from tuition.core.errors import SettingsError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_REFERENCE = re.compile(r"([a-z0-9][a-z0-9._-]{0,63})(?:@([1-9][0-9]{0,8}))?")


class Reference(NamedTuple):
    """`name` or `name@version`."""

    name: str
    version: int | None
    """None: the latest."""


def check_name(name: str) -> str:
    """Return `name` if it may name a model. Raises: SettingsError."""
    if _NAME.fullmatch(name) is None or ".." in name:
        wanted = "1 to 64 of a-z, 0-9, '.', '_', '-', beginning with a letter or digit, without '..'"
        raise SettingsError("model name", got=name[:80], wanted=wanted)
    return name


def parse_reference(text: str) -> Reference | None:
    """The parts of `smollm2@3`; None for text that is not a reference."""
    match = _REFERENCE.fullmatch(text)
    if match is None or ".." in text:
        return None
    return Reference(match[1], int(match[2]) if match[2] else None)


def as_name(text: str) -> str:
    """A name made of a title, or of a file's name."""
    return re.sub(r"[^a-z0-9._-]+|\.\.+", "-", text.lower()).strip("-._")[:64] or "model"
