"""The one thread that writes. In: functions from many threads.  Out: futures, resolved after their commit.

Writes that wait at the same moment share one commit. A future is resolved as soon as the commit has returned,
before anything else can fail: what is committed is acknowledged, and what is refused is not in the books.
"""

import logging
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection

from tuition.books.journal import begin_line, end_line, forget_after, num_noted
from tuition.books.store import Store
from tuition.core.errors import BooksError

R = TypeVar("R")
Write = tuple[Callable[[Connection], Any], "Future[Any]"]
Outcome = tuple[Any, BaseException | None]
log = logging.getLogger("tuition.books")

MOST_PER_COMMIT = 256
"""Writes in one group: bounds how long other processes wait."""


class Writer:
    """See the module. Made and closed by `Books`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="books-writer", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def write(self, fn: Callable[[Connection], R]) -> "Future[R]":
        """Queue `fn`; see `Books.write`."""
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a write inside a write would wait for itself; use the connection that fn was given"
            )
        future: Future[R] = Future()
        with self._lock:
            if self._closed:
                raise BooksError(f"the books at {self._store.name} are closed; open them again")
            self._queue.put((fn, future))
        return future

    def close(self) -> bool:
        """Commit what is queued and end the thread; False where that was done, or is another process's."""
        if os.getpid() != self._pid:  # a forked child has no such thread
            return False
        with self._lock:
            if self._closed:
                return False
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        return True

    def _run(self) -> None:
        last = False
        while not last:
            group, last = self._next_group()
            if group:
                self._commit_group(group)
                self._store.maintain()

    def _next_group(self) -> tuple[list[Write], bool]:
        group: list[Write] = []
        item = self._queue.get()
        while item is not None:
            if item[1].set_running_or_notify_cancel():
                group.append(item)
            if len(group) >= MOST_PER_COMMIT:
                return group, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _commit_group(self, group: list[Write]) -> None:
        def run(connection: Connection) -> list[Outcome]:
            begin_line(connection)
            outcomes = [self._run_one(connection, fn) for fn, _ in group]
            end_line(connection)
            return outcomes

        try:
            outcomes = self._store.commit(run)
        except Exception as error:
            failure = self._store.translate(error)
            outcomes = [(None, failure)] * len(group)
        for (_, future), outcome in zip(group, outcomes, strict=True):
            _resolve(future, outcome)

    def _run_one(self, connection: Connection, fn: Callable[[Connection], Any]) -> Outcome:
        """One write of a group: its own failure undoes only itself. Raises what loses the whole group."""
        savepoint, noted = connection.begin_nested(), num_noted(connection)
        try:
            result = fn(connection)
            savepoint.commit()
        except BaseException as error:  # SystemExit, too: the thread must outlive what it runs
            if self._store.is_environmental(error):
                raise
            savepoint.rollback()
            forget_after(connection, noted)
            return None, error
        return result, None


def _resolve(future: "Future[Any]", outcome: Outcome) -> None:
    result, problem = outcome
    try:
        if problem is None:
            future.set_result(result)
        else:
            future.set_exception(problem)
    except BaseException:  # of a callback; Future itself logs the usual ones
        log.exception("a callback of a write failed")
