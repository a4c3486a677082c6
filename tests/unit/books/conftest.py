"""Stores that misbehave in one way, and a workspace whose books are in either database."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from tuition.books.books import Books, open_books
from tuition.books.store import Store
from tuition.core.workspace import Workspace


class Around:
    """A store that passes everything on to another one."""

    def __init__(self, store: Store) -> None:
        self.inner = store
        self.name = store.name
        self.read, self.maintain, self.close = store.read, store.maintain, store.close
        self.is_environmental, self.translate = store.is_environmental, store.translate

    def commit(self, run: Callable[[Connection], Any]) -> Any:
        return self.inner.commit(run)


class CountingStore(Around):
    """Counts commits."""

    num_commits = 0

    def commit(self, run: Callable[[Connection], Any]) -> Any:
        self.num_commits += 1
        return super().commit(run)


class SlowStore(Around):
    """A disk that needs 20 ms for a commit."""

    def commit(self, run: Callable[[Connection], Any]) -> Any:
        time.sleep(0.02)
        return super().commit(run)


class HastyStore(Around):
    """The planted fault: it says that it has committed while it has not."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.threads: list[threading.Thread] = []
        self.close = self.close_late

    def close_late(self) -> None:
        for thread in self.threads:
            thread.join(10)
        self.inner.close()

    def commit(self, run: Callable[[Connection], Any]) -> Any:
        done: Future[Any] = Future()

        def slowly(connection: Connection) -> None:
            done.set_result(run(connection))
            time.sleep(0.05)

        self.threads.append(threading.Thread(target=self.inner.commit, args=(slowly,)))
        self.threads[-1].start()
        return done.result()


@pytest.fixture
def workspace(tmp_path: Path, database: str) -> Workspace:
    return Workspace(tmp_path / "home")


@pytest.fixture
def books(workspace: Workspace) -> Iterator[Books]:
    with open_books(workspace) as opened:
        yield opened


@pytest.fixture
def around() -> dict[str, type[Around]]:
    return {"counting": CountingStore, "slow": SlowStore, "hasty": HastyStore}
