"""What a database must offer to hold the books. `sqlite` and `postgresql` are the two that do."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from tuition.core.errors import TuitionError

R = TypeVar("R")


class Store(Protocol):
    """One database. `commit` is called by one thread at a time, `read` by any."""

    name: str
    """For messages: a path, or a URL without its password."""

    def commit(self, run: Callable[[Connection], R]) -> R:
        """Run `run` in a write transaction that no other process's write overlaps; commit; return its result.

        On return the change is durable. Whatever it raises, nothing of the transaction is in the database;
        UncertainCommitError alone says that this is not known.
        """

    def read(self, run: Callable[[Connection], R]) -> R:
        """Run `run` on a snapshot of what is committed; it cannot write."""

    def maintain(self) -> None:
        """Housekeeping between two commits. Never raises: no write may look failed because of it."""

    def is_environmental(self, error: BaseException) -> bool:
        """True for failures of disk, lock or connection: the whole transaction is lost, not one statement."""

    def translate(self, error: BaseException) -> TuitionError:
        """The error that a caller gets for a failed write or read, with the way out."""

    def close(self) -> None:
        """Give everything back. Never raises: every write has had its answer."""
