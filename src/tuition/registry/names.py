"""Names of models: ids that are looked up in a table, never joined to a path as they came."""

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
    """`smollm2@3` in its parts; None for text that can name no model."""
    match = _REFERENCE.fullmatch(text)
    if match is None or ".." in text:
        return None
    return Reference(match[1], int(match[2]) if match[2] else None)
