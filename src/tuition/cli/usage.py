"""What the parser of the command line refuses, as one line instead of a box.

In: the box that tyro prints before it exits.  Out: a SettingsError.  Nobody promises how tyro says things:
what is not recognised here is told in its own words.
"""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence

from tuition.core.errors import SettingsError

WIDE = "100000"
"""Columns of a terminal on which no line of a box is wrapped."""

PLAIN = {"INT": "a whole number", "FLOAT": "a number", "STR": "a text", "PATH": "a path"}

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r"^(│ | {2})|\s*│?\s*$")
_UNKNOWN = re.compile(r"Unrecognized options: (.*)")
_SIMILAR = re.compile(r"^ {4}(-\S.*)", re.MULTILINE)
_CHOICE = re.compile(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*?),?\)\.")
_NO_VALUE = re.compile(r"Missing value for argument '(.*)'\. Expected (\d+) values?")
_VALUE = re.compile(r"Error parsing (\S+): (.*)")
_TAKES = re.compile(r"^Argument helptext:\n +(.*)", re.MULTILINE)
_GOT = re.compile(r"\['(.*?)'\]|: '(.*)'$")
_MISSING = re.compile(r"^ {8}(\S.*?)\.? \(required\)", re.MULTILINE)


@contextlib.contextmanager
def refused_in_one_line(verb: str, argv: Sequence[str]) -> Iterator[None]:
    """Inside, a command line that tyro refuses is a SettingsError; help is left as it is."""
    told, columns = io.StringIO(), os.environ.get("COLUMNS")
    if {"-h", "--help"}.isdisjoint(argv):
        os.environ["COLUMNS"] = WIDE
    try:
        with contextlib.redirect_stderr(told):
            yield
    except SystemExit as ended:
        if not ended.code:
            raise
        raise refusal(told.getvalue(), verb, argv) from None
    finally:
        if columns is not None:
            os.environ["COLUMNS"] = columns
        else:
            os.environ.pop("COLUMNS", None)
    sys.stderr.write(told.getvalue())


def refusal(box: str, verb: str, argv: Sequence[str]) -> SettingsError:
    """What the box says: what came, what was wanted, and how to see more."""
    text = "\n".join(_FRAME.sub("", line) for line in _STYLE.sub("", box).splitlines())
    command = f"tuition {verb}"
    more = f"; {command} --help says more"
    if found := _UNKNOWN.search(text):
        words = found[1].split(", ")
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        similar = ", ".join(_plain(option) for option in _SIMILAR.findall(text))
        wanted = f"an option of {command}" if options else f"nothing more behind {command}"
        perhaps = f", perhaps {similar}" if similar else ""
        return SettingsError(verb, got=" ".join(options or words), wanted=f"{wanted}{perhaps}{more}")
    if found := _CHOICE.search(text):
        return SettingsError(found[2], got=found[1], wanted=f"one of {found[3]}{more}")
    if found := _NO_VALUE.search(text):
        number = "a value" if found[2] == "1" else f"{found[2]} values"
        return SettingsError(found[1], got=None, wanted=f"{number} behind it{more}")
    if (found := _VALUE.search(text)) and (takes := _TAKES.search(text)):
        got = _GOT.search(found[2])
        value = found[2] if got is None else (got[1] or got[2] or "").replace("', '", " ")
        kind = _plain(takes[1]).removeprefix(found[1]).strip()
        return SettingsError(found[1], got=value, wanted=PLAIN.get(kind, kind) + more)
    if missing := _MISSING.findall(text):
        return SettingsError(verb, got=" ".join(argv) or None, wanted=f"also: {'; '.join(missing)}{more}")
    said = " ".join(re.sub(r"[╭╮╰╯│─]", " ", text).split())
    return SettingsError(verb, got=" ".join(argv), wanted=f"what can be read ({said}){more}")


def _plain(option: str) -> str:
    """An option as help shows it, without what stands for leaving it out."""
    return option.replace("{None}|", "")
