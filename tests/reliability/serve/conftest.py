"""Loads the tiny server for the tests of this folder."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        command = [sys.executable, str(PROGRAM), str(folder), *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        self.url = self.process.stdout.readline().strip()  # type: ignore[union-attr]
        if not self.url:
            raise RuntimeError(self.process.stderr.read())  # type: ignore[union-attr]

    def signal(self, number: int) -> float:
        """Send a signal; returns when."""
        self.process.send_signal(number)
        return time.monotonic()

    def end(self) -> int:
        """Make sure that it is gone."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        return self.process.wait(20)


@pytest.fixture(scope="session")
def new_child() -> type[Child]:
    """Starts one server; who starts it ends it."""
    return Child


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    """Starts servers and ends them by their process ids."""
    started: list[Child] = []

    def start(folder: Path, *options: str) -> Child:
        started.append(Child(folder, *options))
        return started[-1]

    yield start
    for one in started:
        one.end()
        for pipe in (one.process.stdout, one.process.stderr):
            pipe.close()  # type: ignore[union-attr]
