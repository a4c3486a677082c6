"""Errors that a user may see. Each says what was wanted and what came, and ends with what to do.

The command line prints the message of a `TuitionError` on one line; any other exception is a bug.
"""

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path


def shown_path(path: Path | str) -> str:
    """A path as text that can be printed and stored, also one whose name is no UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class TuitionError(Exception):
    """Base of all errors that input, settings or the machine cause; they are not bugs of the program."""


class SettingsError(TuitionError):
    """A setting is missing or has a value that cannot be used."""

    def __init__(self, field: str, *, got: object, wanted: str) -> None:
        self.field, self.got, self.wanted = field, got, wanted
        came = "nothing given" if got is None or got == () else f"got {got!r}"
        super().__init__(f"{field}: {came}, wanted {wanted}")


class ShapeError(TuitionError):
    """Arrays or a network have shapes that do not fit together."""

    def __init__(self, where: str, *, wanted: str, got: object) -> None:
        self.where, self.wanted, self.got = where, wanted, got
        super().__init__(f"{where}: wanted {wanted}, got {got}")


class CapacityError(TuitionError):
    """What was asked does not fit into the machine's memory or the model's context."""

    def __init__(self, what: str, *, need: int, free: int, unit: str, way_out: str) -> None:
        self.need, self.free, self.unit = need, free, unit
        super().__init__(f"{what} needs {need:,} {unit}, {free:,} are available; {way_out}")


class DataError(TuitionError):
    """An input file has content that cannot be used for training; names the file and, if known, the line."""

    def __init__(self, path: Path | str, problem: str, *, line: int | None = None, way_out: str) -> None:
        self.path, self.problem, self.line = Path(path), problem, line
        shown = shown_path(path)
        place = f"{shown}, line {line:,}" if line is not None else shown
        super().__init__(f"{place}: {problem}; {way_out}")


class ModelError(TuitionError):
    """A model folder or file cannot be used: missing, damaged, changed, or of an unknown kind."""

    def __init__(self, path: Path | str, problem: str, *, way_out: str) -> None:
        self.path, self.problem = Path(path), problem
        super().__init__(f"{path}: {problem}; {way_out}")


class NotFoundError(TuitionError):
    """A name is not in the table where it was looked up; `if_none`: what to do when the table is empty."""

    def __init__(
        self, kind: str, name: str, known: Sequence[str], *, if_none: str = "known: none yet"
    ) -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        if not known:
            super().__init__(f"no {kind} named {name!r}; {if_none}")
            return
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        listed = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
        super().__init__(f"no {kind} named {name!r}; {hint}known: {listed}")


class RequestError(TuitionError):
    """A request asks for something malformed or out of range; `field` is named as the caller wrote it."""

    def __init__(self, field: str, problem: str) -> None:
        self.field, self.problem = field, problem
        super().__init__(f"{field}: {problem}")


class UnsupportedField(RequestError):  # noqa: N818 (it names the field, not the failure)
    """A known field that is not supported: refused rather than ignored."""

    def __init__(self, field: str, instead: str | None = None) -> None:
        way_out = "leave it out" if instead is None else f"use {instead}"
        super().__init__(field, f"is not supported yet; {way_out}")


class BusyError(TuitionError):
    """There is no room for more work now; try again after `retry_after_s` seconds."""

    def __init__(self, what: str, *, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"{what}; try again in {retry_after_s} s")


class BooksError(TuitionError):
    """The database of the workspace cannot be read or written."""


class OddValueError(BooksError):
    """A column of numbers holds something else; `Books.read` says in which row."""

    def __init__(self, value: object) -> None:
        super().__init__(
            f"the books hold {value!r} in place of a number; something other than tuition has changed them: "
            "`tuition bill check` names the row; put back a copy of the books from before"
        )


class UncertainCommitError(BooksError):
    """The connection was lost while committing, and the server could not be asked for the outcome."""


class MissingExtraError(TuitionError):
    """An optional library is needed and not installed."""

    def __init__(self, what: str, *, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs {package}, which is not installed; run: pip install 'tuition[{extra}]'"
        )
