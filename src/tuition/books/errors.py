"""What a database failure means to the user: busy now, or broken, and the way out."""

import sqlite3

from sqlalchemy.exc import DBAPIError

from tuition.core.errors import BooksError, BusyError, TuitionError

_WAYS_OUT = (
    ("disk is full", "free some space on that disk; nothing that was acknowledged is lost"),
    ("readonly", "make the workspace writable, or point TUITION_HOME at a folder that is"),
    ("unable to open", "check that the workspace exists and is yours"),
    ("disk i/o error", "check the disk; restore the workspace from a copy if it is damaged"),
    ("malformed", "restore the workspace from a copy; do not write to it"),
    ("not a database", "restore the workspace from a copy; do not write to it"),
)


def is_environmental(error: BaseException) -> bool:
    """True for failures of disk, lock or file: the whole transaction is in doubt, not one statement in it."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        return False
    if isinstance(error, sqlite3.OperationalError):
        text = str(error).lower()
        return any(word in text for word, _ in _WAYS_OUT) or "locked" in text or "busy" in text
    return isinstance(error, sqlite3.DatabaseError | OSError)


def translate(error: BaseException, path: object) -> TuitionError:
    """The error a caller of `Books` gets for a failed write or read."""
    if isinstance(error, TuitionError):
        return error
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = str(cause)
    if "locked" in text.lower() or "busy" in text.lower():
        return BusyError(f"the books at {path} are in use by another program", retry_after_s=1)
    way_out = next((way for word, way in _WAYS_OUT if word in text.lower()), "see the message and try again")
    return BooksError(f"the books at {path} could not be used: {text}; {way_out}")
