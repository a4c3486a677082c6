"""The demo's view of a server: the real `tuition serve` in a process of its own, asked over HTTP.

Every reply is streamed through the OpenAI protocol; the request's receipt is then read from the books by the
id that the server gave it.
"""

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tuition.core.errors import TuitionError
from tuition.core.settings import table_to_toml, to_table
from tuition.core.workspace import Workspace
from tuition.serve.settings import read_api_key
from tuition.spec.settings import MachineSettings
from tuition.studio.api import Api, Failure, Piece

START_S = 300.0
"""Loading on a slow disk or a busy machine included: only a server that hangs is given up."""
STOP_S = 30.0
DIGEST_S = 120.0
POLL_S = 0.05
SERVING = re.compile(r"^serving .* at (http://\S+)/v1$", re.MULTILINE)


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
    log: Path
    """All that it says."""

    def digest(self) -> dict[str, Any]:
        """`recorded` at load, and `recomputed` now from the tensors that the server computes with.

        Raises: TuitionError.
        """
        key = read_api_key()
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        url = f"{self.url}/v1/models/{self.model}/digest"
        try:
            reply = httpx.get(url, headers=headers, timeout=DIGEST_S, trust_env=False)
            reply.raise_for_status()
            return reply.json()
        except (httpx.HTTPError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise TuitionError(
                f"the server did not tell the digest of {self.model} ({reason}); all it said: {self.log}"
            ) from error

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
            api = Api(self.url, read_api_key())
            heard: list[Piece] = []
            try:
                async for piece in call(api):
                    heard.append(piece)
                    show(piece.text)
            except Failure as failure:
                raise TuitionError(
                    f"the server did not finish its reply: {failure} All it said: {self.log}"
                ) from failure
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
def serving(reference: str, workspace: Workspace, machine: MachineSettings) -> Iterator[Server]:
    """Start `tuition serve` on a free port; end it with SIGTERM afterwards, by its own pid.

    It charges the rate of the `machine` on which the model was taught. What it says goes into a file, since a
    pipe that nobody empties would stop it.
    Raises: TuitionError if it does not start, or does not end well.
    """
    settings, log = workspace.root / "demo-serve.toml", workspace.root / "demo-serve.log"
    settings.write_text(table_to_toml({"machine": to_table(machine)}), encoding="utf-8")
    command = [sys.executable, "-m", "tuition.cli.main", "serve", reference, "--port", "0"]
    command += ["--workspace", str(workspace.root), "--settings", str(settings)]
    with open(log, "wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)  # noqa: S603
    try:
        yield Server(_wait_for_url(process, log), reference.partition("@")[0], log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise TuitionError(f"the server ended with status {process.returncode}; {_last_said(log)}")


def _wait_for_url(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """The address it says it serves at. Raises: TuitionError when it ends, or the time does."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise TuitionError(
                f"the server did not start, it ended with status {process.returncode}; {_last_said(log)}"
            )
        if found := SERVING.search(log.read_text(encoding="utf-8", errors="replace")):
            return found[1]
        time.sleep(POLL_S)
    raise TuitionError(f"the server did not start within {START_S:g} s; {_last_said(log)}")


def _last_said(log: Path) -> str:
    """The end of an error: the last line of a log, and where the rest of it is."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else 'it said nothing'} (all it said: {log})"
