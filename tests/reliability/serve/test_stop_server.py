"""R3: SIGTERM drains, the drain has a limit, a second SIGTERM ends everything with an error event."""

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx


class Reader(threading.Thread):
    """Streams one reply and keeps its lines."""

    def __init__(self, url: str, tokens: int) -> None:
        super().__init__()
        self.url, self.tokens = url, tokens
        self.lines: list[str] = []
        self.started = threading.Event()

    def run(self) -> None:
        body = {"model": "tiny", "prompt": "a", "max_tokens": self.tokens, "stream": True}
        try:
            with httpx.stream("POST", f"{self.url}/v1/completions", json=body, timeout=30) as reply:
                for line in reply.iter_lines():
                    if line:
                        self.lines.append(line)
                        self.started.set()
        except httpx.HTTPError as error:
            self.lines.append(f"broken: {error}")


def start(child: Callable[..., Any], tmp_path: Path, pause: float, drain: float) -> tuple[Any, Reader]:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be that is the question " * 4, encoding="utf-8")
    options = ("--text", str(text), "--pause", str(pause), "--drain", str(drain))
    server = child(tmp_path / "books", *options)
    reader = Reader(server.url, 60)
    reader.start()
    assert reader.started.wait(20)
    return server, reader


def refused(url: str) -> bool:
    """New work gets 503 and is told when to try again."""
    reply = httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "a"})
    return reply.status_code == 503 and int(reply.headers["retry-after"]) >= 1


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.HTTPError:
        return False


def wait_until_it_drains(url: str) -> None:
    deadline = time.monotonic() + 20
    while ready(url):
        assert time.monotonic() < deadline, "the signal has no effect"
        time.sleep(0.01)


def last_error(reader: Reader) -> dict[str, Any]:
    return json.loads(reader.lines[-1].removeprefix("data: "))["error"]


def test_sigterm_lets_replies_end_and_takes_no_new_ones(child: Callable[..., Any], tmp_path: Path) -> None:
    server, reader = start(child, tmp_path, pause=0.05, drain=60)
    assert ready(server.url)
    server.signal(signal.SIGTERM)
    wait_until_it_drains(server.url)
    assert refused(server.url)
    reader.join()
    assert reader.lines[-1] == "data: [DONE]"
    assert server.process.wait(10) == 0


def test_a_second_sigterm_ends_with_an_error_event(child: Callable[..., Any], tmp_path: Path) -> None:
    server, reader = start(child, tmp_path, pause=0.2, drain=60)
    server.signal(signal.SIGTERM)
    wait_until_it_drains(server.url)
    asked = server.signal(signal.SIGTERM)
    reader.join()
    assert last_error(reader)["code"] == "overloaded"
    assert "data: [DONE]" not in reader.lines
    server.process.wait(10)
    assert time.monotonic() - asked < 5


def test_the_drain_has_a_limit(child: Callable[..., Any], tmp_path: Path) -> None:
    server, reader = start(child, tmp_path, pause=0.5, drain=0.5)
    asked = server.signal(signal.SIGTERM)
    reader.join()
    assert last_error(reader)["code"] == "overloaded"
    server.process.wait(10)
    assert time.monotonic() - asked < 0.5 + 4  # the limit, and what a busy machine takes to end a process
