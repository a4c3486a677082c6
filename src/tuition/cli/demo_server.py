"""The demo's server: the real `tuition serve` in a separate process, called over HTTP.

Every reply is streamed through the OpenAI protocol; the request's receipt is then read from the books by the
id that the server gave it.
"""

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

from tuition.client.api import Api, Model
from tuition.client.errors import ClientError
from tuition.client.listen import call, listen
from tuition.client.reply import Piece, Reply
from tuition.core.errors import TuitionError
from tuition.core.settings import table_to_toml, to_table
from tuition.core.workspace import Workspace
from tuition.serve.settings import read_api_key
from tuition.spec.settings import MachineSettings

START_S = 300.0
"""Includes loading on a slow disk or a busy machine."""
STOP_S = 30.0
POLL_S = 0.05
SERVING = re.compile(r"^serving .* at (http://\S+)/v1$", re.MULTILINE)


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    url: str
    model: str
    log: Path
    """All that it prints."""

    def digest(self) -> str:
        """The digest of the weights that the server computes with, made anew. Raises: TuitionError."""
        try:
            found = call(self.url, read_api_key(), lambda api: api.digest(self.model))
            return str(found["recomputed"])
        except ClientError as error:
            raise TuitionError(
                f"the server did not give the digest of {self.model}: {error} Its log: {self.log}"
            ) from error

    def complete(self, prompt: str, show: Callable[[str], None], **settings: Any) -> Reply:
        """Continue a text; `show` gets it as it arrives. Raises: TuitionError."""
        return self._listen(lambda api: api.complete(self._model, prompt, settings), show)

    def chat(
        self, messages: Sequence[Mapping[str, str]], show: Callable[[str], None], **settings: Any
    ) -> Reply:
        """The next turn of a conversation. Raises: TuitionError."""
        return self._listen(lambda api: api.chat(self._model, messages, settings), show)

    @property
    def _model(self) -> Model:
        return Model(self.model, has_chat=True, context_length=None)

    def _listen(self, ask: Callable[[Api], AsyncIterator[Piece]], show: Callable[[str], None]) -> Reply:
        try:
            reply = listen(self.url, read_api_key(), ask, show)
        except ClientError as error:
            raise TuitionError(f"the server did not finish its reply: {error} Its log: {self.log}") from error
        if reply.finish_reason == "cancelled":
            raise KeyboardInterrupt
        return reply


@contextmanager
def serving(reference: str, workspace: Workspace, machine: MachineSettings) -> Iterator[Server]:
    """Start `tuition serve` on a free port; end it with SIGTERM afterwards, by its own pid.

    It charges the rate of `machine`. Its output goes into a file: a full pipe would stop it.
    Raises: TuitionError if it does not start, or does not end well.
    """
    settings, log = workspace.root / "demo-serve.toml", workspace.root / "demo-serve.log"
    settings.write_text(table_to_toml({"machine": to_table(machine)}), encoding="utf-8")
    command = [sys.executable, "-m", "tuition.cli.main", "serve", reference, "--port", "0"]
    command += ["--workspace", str(workspace.root), "--settings", str(settings)]
    with open(log, "wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)  # noqa: S603
    try:
        yield Server(wait_for_url(process, log), reference.partition("@")[0], log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise TuitionError(f"the server ended with status {process.returncode}; {_last_said(log)}")


def wait_for_url(process: "subprocess.Popen[bytes]", log: Path) -> str:
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
