"""What a failure of SQLite means to the user: busy now, full, or broken, and the way out."""

import errno
import os
import sqlite3
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from tuition.core.errors import BooksError, BusyError, TuitionError

FULL = "the disk is full; free some space on it: nothing that was acknowledged is lost"
LEAST_FREE_BYTES = 64 << 10
"""With less, SQLite cannot even make its index of the log, and calls that an I/O error."""

_WAYS_OUT = (
    ("readonly", "make the workspace writable, or point TUITION_HOME at a folder that is"),
    ("unable to open", "check that the workspace exists and is yours"),
    ("disk i/o error", "check the disk; restore the workspace from a copy if it is damaged"),
    ("malformed", "restore the workspace from a copy; do not write to it"),
    ("not a database", "restore the workspace from a copy; do not write to it"),
)


def is_environmental(error: BaseException) -> bool:
    """True for failures of disk, lock or file: the whole transaction is in doubt, not one statement in it."""
    cause = _cause(error)
    if isinstance(cause, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        return False
    if isinstance(cause, sqlite3.OperationalError):
        text = str(cause).lower()
        words = ("disk is full", "locked", "busy", *(word for word, _ in _WAYS_OUT))
        return any(word in text for word in words)
    return isinstance(cause, sqlite3.DatabaseError)


def translate(error: BaseException, path: Path) -> TuitionError:
    """The error a caller of `Books` gets for a failed write or read."""
    if isinstance(error, TuitionError):
        return error
    cause = _cause(error)
    text = str(cause)
    if _is_full(cause, path):
        return BooksError(f"the books at {path} could not be written: {FULL}")
    if "locked" in text.lower() or "busy" in text.lower():
        return BusyError(f"the books at {path} are in use by another program", retry_after_s=1)
    way_out = next((way for word, way in _WAYS_OUT if word in text.lower()), "see the message and try again")
    return BooksError(f"the books at {path} could not be used: {text}; {way_out}")


def _cause(error: BaseException) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def _is_full(cause: BaseException, path: Path) -> bool:
    """Whether the disk is full: by the error code, or by the free space where SQLite's code is vague."""
    if isinstance(cause, OSError):
        return cause.errno in (errno.ENOSPC, errno.EDQUOT)
    name = getattr(cause, "sqlite_errorname", None) or ""
    if name == "SQLITE_FULL":
        return True
    if not name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")):
        return False
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < LEAST_FREE_BYTES or (disk.f_files > 0 and disk.f_favail == 0)
