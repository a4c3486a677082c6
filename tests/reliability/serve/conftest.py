"""Loads the tiny server for the tests of this folder."""

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from forge import TINY_SERVER, Forge
from server_thread import RunningServer, start_server

PROGRAM = Path(__file__).with_name("tiny_server.py")


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The module `tiny_server`."""
    if "tiny_server" not in sys.modules:
        spec = importlib.util.spec_from_file_location("tiny_server", PROGRAM)
        sys.modules["tiny_server"] = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(sys.modules["tiny_server"])  # type: ignore[union-attr]
    return sys.modules["tiny_server"]


@pytest.fixture
def scripted(tiny: Any, tmp_path: Any) -> Iterator[Callable[..., tuple[Any, RunningServer]]]:
    """Servers whose model says a fixed text."""
    made: list[tuple[Any, RunningServer]] = []

    def start(**options: Any) -> tuple[Any, RunningServer]:
        context = tiny.tiny_context(tmp_path, **{"script": tiny.Script(["to be or not to be"]), **options})
        made.append((context, start_server(context)))
        return made[-1]

    yield start
    for context, server in made:
        server.stop()
        tiny.close_context(context)


class Child:
    """A server in a process of its own."""

    def __init__(self, forge: Forge, folder: Path, *options: str) -> None:
        self.folder = folder
        self.process = forge.start(TINY_SERVER, [str(folder), *options])
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(self.process.errors)

    def signal(self, number: int) -> float:
        """Send a signal; returns when."""
        self.process.send_signal(number)
        return time.monotonic()

    def end(self) -> int:
        """Make sure that it is gone."""
        self.process.kill()
        code = self.process.wait(20)
        self.process.close()
        return code


@pytest.fixture(scope="session")
def new_child(forge: Forge) -> Callable[..., Child]:
    """Starts one server; who starts it ends it."""
    return partial(Child, forge)


@pytest.fixture
def child(new_child: Callable[..., Child]) -> Iterator[Callable[..., Child]]:
    """Starts servers and ends them by their process ids."""
    started: list[Child] = []

    def start(folder: Path, *options: str) -> Child:
        started.append(new_child(folder, *options))
        return started[-1]

    yield start
    for one in started:
        one.end()
