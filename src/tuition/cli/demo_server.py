"""The demo's view of a server: the real `tuition serve` in a process of its own, asked over HTTP.

Every reply is streamed through the OpenAI protocol; the request's receipt is then read from the books by the
id that the server gave it.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tuition.core.errors import TuitionError
from tuition.core.settings import table_to_toml, to_table
from tuition.core.workspace import Workspace
from tuition.spec.settings import MachineSettings
from tuition.studio.api import Api, Failure, Piece

START_S = 120.0
"""Loading a model on a slow disk included."""
STOP_S = 30.0
SERVING = re.compile(r"serving .* at (http://\S+)/v1")


@dataclass(frozen=True)
class Reply:
    """One streamed reply."""

    request_id: str
    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_generated: int


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    url: str
    model: str

    def digest(self) -> dict[str, Any]:
        """`recorded` at load, and `recomputed` now from the tensors that the server computes with."""
        reply = httpx.get(f"{self.url}/v1/models/{self.model}/digest", timeout=120, trust_env=False)
        reply.raise_for_status()
        return reply.json()

    def complete(self, prompt: str, show: Callable[[str], None], **settings: Any) -> Reply:
        """Continue a text; `show` gets the pieces as they come. Raises: TuitionError."""

        async def pieces(api: Api) -> AsyncIterator[Piece]:
            offered = next(model for model in await api.models() if model.name == self.model)
            async for piece in api.complete(offered, prompt, settings):
                yield piece

        return self._ask(pieces, show)

    def chat(
        self, messages: Sequence[Mapping[str, str]], show: Callable[[str], None], **settings: Any
    ) -> Reply:
        """The next turn of a conversation. Raises: TuitionError."""
        return self._ask(lambda api: api.chat(self.model, messages, settings), show)

    def _ask(self, call: Callable[[Api], AsyncIterator[Piece]], show: Callable[[str], None]) -> Reply:
        async def listen() -> Reply:
            api = Api(self.url, os.environ.get("TUITION_API_KEY"))
            heard: list[Piece] = []
            try:
                async for piece in call(api):
                    heard.append(piece)
                    show(piece.text)
            except Failure as failure:
                raise TuitionError(f"the server did not finish its reply: {failure}") from failure
            finally:
                await api.close()
            return _fold(heard)

        return asyncio.run(listen())


def _fold(pieces: Sequence[Piece]) -> Reply:
    def last(name: str) -> Any:
        return next((value for p in reversed(pieces) if (value := getattr(p, name)) is not None), None)

    text = "".join(piece.text for piece in pieces)
    counts = last("num_prompt_tokens") or 0, last("num_generated") or 0
    return Reply(last("request_id") or "", text, last("finish_reason") or "unfinished", *counts)


@contextmanager
def serving(model: str, workspace: Workspace, machine: MachineSettings) -> Iterator[Server]:
    """Start `tuition serve` on a free port; end it with SIGTERM afterwards, by its own pid.

    It charges the rate of the `machine` on which the model was taught.
    Raises: TuitionError if it does not start, or does not end well.
    """
    settings = workspace.root / "demo-serve.toml"
    settings.write_text(table_to_toml({"machine": to_table(machine)}), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "tuition.cli.main",
        "serve",
        model,
        "--port",
        "0",
        "--workspace",
        str(workspace.root),
        "--settings",
        str(settings),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
    try:
        yield Server(_wait_for_url(process), model)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            _, errors = process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
    if process.returncode != 0:
        raise TuitionError(f"the server ended with status {process.returncode}: {_last_line(errors)}")


def _wait_for_url(process: subprocess.Popen[str]) -> str:
    deadline = time.monotonic() + START_S
    if process.stdout is None:
        raise TuitionError("the server has no output")
    for line in process.stdout:
        if found := SERVING.match(line):
            return found[1]
        if time.monotonic() > deadline:
            break
    errors = process.stderr.read() if process.stderr is not None and process.poll() is not None else ""
    raise TuitionError(f"the server did not start: {_last_line(errors)}")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
