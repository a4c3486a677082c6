"""What a PostgreSQL failure means to the user: busy now, full, or out of reach, and the way out."""

from sqlalchemy.exc import DBAPIError, OperationalError

from tuition.core.errors import BooksError, BusyError, TuitionError

_LOST = ("08", "57P")  # classes: connection exception, operator intervention
_ENVIRONMENT = (*_LOST, "53", "58", "XX", "25006", "55P03")
"""Beside lost connections: no resources, system error, internal error, read only, lock not available."""

_BUSY = {
    "55P03": ("is being written by another process", 1),
    "53300": ("has no free connection", 5),
}
_WAYS_OUT = {
    "53100": "the disk of the database server is full; free some space on it: what was acknowledged is kept",
    "53200": "the database server has no memory left; give it more, or stop other work on it",
    "25006": "it is read-only; name the primary server in TUITION_DATABASE_URL",
    "42501": "grant the user USAGE and CREATE on the schema",
    "3F000": "create the schema that search_path names, or leave it out of the URL",
}


def sqlstate(error: BaseException) -> str:
    """The five letters of the error's code; empty where the server never answered."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) or ""


def is_environmental(error: BaseException) -> bool:
    """True for failures of server, disk, lock or connection: the whole transaction is lost."""
    if not isinstance(error, DBAPIError):
        return False
    code = sqlstate(error)
    unanswered = isinstance(error, OperationalError) and not code
    return unanswered or error.connection_invalidated or code.startswith(_ENVIRONMENT)


def translate(error: BaseException, name: str, password: str) -> TuitionError:
    """The error a caller of `Books` gets for a failed write or read. The password is in none of them."""
    if isinstance(error, TuitionError):
        return error
    code = sqlstate(error)
    if code in _BUSY:
        what, seconds = _BUSY[code]
        return BusyError(f"the database {name} {what}", retry_after_s=seconds)
    if code in _WAYS_OUT:
        return BooksError(f"the books at {name} could not be used: {_WAYS_OUT[code]}")
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    said = " ".join(str(cause).split()) or type(cause).__name__
    if password:
        said = said.replace(password, "***")
    if isinstance(error, DBAPIError) and (not code or code.startswith(_LOST)):
        return BooksError(
            f"the database {name} could not be reached: {said}; "
            "start it, or check TUITION_DATABASE_URL, then try again"
        )
    kind = f"{type(cause).__name__} {code}".strip()
    return BooksError(f"the books at {name} could not be used: {said} ({kind}); try again")
