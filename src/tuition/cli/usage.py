"""What the parser of the command line prints: help with a description that fits the terminal, and what it
refuses as one line instead of a box.

In: what tyro prints before it exits.  Out: help, or a SettingsError.  The text of the box may change with
tyro's versions: what is not recognised here is shown as it came.
"""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from tuition.cli.field_help import EMPTY_PATH
from tuition.cli.help_text import filled, help_columns
from tuition.core.errors import SettingsError

WIDE = "100000"
"""Columns of a terminal on which no line of a box is wrapped."""

DESCRIPTION = "(description)"
"""What tyro is given as the description of a verb; it would print each paragraph as one long line."""

PLAIN = {"INT": "a whole number", "FLOAT": "a number", "STR": "a text", "PATH": "a path"}

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r"^(│ | {2})|\s*│?\s*$")
_UNKNOWN = re.compile(r"Unrecognized options: (.*)")
_SIMILAR = re.compile(r"^ {4}(-\S.*)", re.MULTILINE)
_CHOICE = re.compile(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*?),?\)\.")
_NO_VALUE = re.compile(r"Missing value for argument '(.*)'\. Expected (\d+) values?")
_VALUE = re.compile(r"Error parsing (\S+): (.*)")
_EMPTY_PATH = re.compile(rf"Error parsing (.*?):[\s\S]*?({EMPTY_PATH}|valid parse for arguments: \[.*'')")
_TAKES = re.compile(r"^Argument helptext:\n +(.*)", re.MULTILINE)
_GOT = re.compile(r"\['(.*?)'\]|: '(.*)'$")
_MISSING = re.compile(r"^ {4}(\S.*)\n {8}(\S.*?)\.? \(required\)", re.MULTILINE)

MEANT = {"--data": "--data.paths", "--field": "--data.field"}
"""Options that do not exist, and the option that a user means by each."""


class UsageError(SettingsError):
    """An argument that the verb does not have, or one that it needs."""

    def __init__(self, verb: str, problem: str, *, got: str | None, wanted: str) -> None:
        super().__init__(verb, got=got, wanted=wanted)
        self.args = (f"{verb}: {problem}; see: tuition {verb} --help",)


class _HeldBack(io.StringIO):
    """Keeps what is written. Colours and signs are those of the stream that it stands for."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    @property
    def encoding(self) -> str:  # pyrefly: ignore[bad-override]  (read-only here, as in io.StringIO itself)
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()


@contextlib.contextmanager
def refused_in_one_line(verb: str, argv: Sequence[str], description: str) -> Iterator[None]:
    """Inside, a command line that tyro refuses is a SettingsError; help shows the description."""
    told, columns, shown = io.StringIO(), os.environ.get("COLUMNS"), _HeldBack(sys.stdout)
    is_help = not {"-h", "--help"}.isdisjoint(argv)
    width = help_columns()
    os.environ["COLUMNS"] = str(width) if is_help else WIDE
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(shown):
            yield
    except SystemExit as ended:
        if not ended.code:
            sys.stdout.write(shown.getvalue().replace(DESCRIPTION, filled(description, width), 1))
            raise
        raise refusal(told.getvalue(), verb, argv) from None
    finally:
        if columns is not None:
            os.environ["COLUMNS"] = columns
        else:
            os.environ.pop("COLUMNS", None)
    sys.stderr.write(told.getvalue())


def refusal(box: str, verb: str, argv: Sequence[str]) -> SettingsError:
    """The error that the box describes."""
    text = "\n".join(_FRAME.sub("", line) for line in _STYLE.sub("", box).splitlines())
    more = f"; see: tuition {verb} --help"
    if found := _UNKNOWN.search(text):
        words = found[1].split(", ")
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        meant = [MEANT[option] for option in options if option in MEANT and verb == "train"]
        similar = ", ".join(meant or _SIMILAR.findall(text))
        got = " ".join(options or words)
        problem = f"unknown option {got}" if options else f"unexpected argument {got!r}"
        hint = f"; did you mean {similar}?" if similar else ""
        return UsageError(verb, problem + hint, got=got, wanted=similar)
    if found := _CHOICE.search(text):
        return SettingsError(found[2], got=found[1], wanted=f"one of {found[3]}{more}")
    if found := _NO_VALUE.search(text):
        number = "a value" if found[2] == "1" else f"{found[2]} values"
        return SettingsError(found[1], got=None, wanted=f"{number} after the option{more}")
    if found := _EMPTY_PATH.search(text):
        name = next(iter(re.findall(r"[\w.-]+", found[1])), verb)
        return SettingsError(name, got="", wanted=f"a path; is a variable unset?{more}")
    if (found := _VALUE.search(text)) and (takes := _TAKES.search(text)):
        given = _GOT.search(found[2])
        value = found[2] if given is None else (given[1] or given[2] or "").replace("', '", " ")
        kind = takes[1].removeprefix(found[1]).strip()
        return SettingsError(found[1], got=value, wanted=PLAIN.get(kind, kind) + more)
    if missing := _MISSING.findall(text):
        names = "; ".join(f"{name} ({what})" for name, what in missing)
        return UsageError(verb, f"missing {names}", got=" ".join(argv) or None, wanted=names)
    said = " ".join(re.sub(r"[╭╮╰╯│─]", " ", text).split())
    return SettingsError(verb, got=" ".join(argv), wanted=f"valid arguments ({said}){more}")
