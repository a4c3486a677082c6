"""Whatever clients do, a healthy server logs nothing above INFO."""

import importlib.util
import json
import logging
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server_thread import RunningServer, start_server
from tuition.serve.settings import ServeSettings

TINY = Path(__file__).parents[1] / "reliability" / "serve" / "tiny_server.py"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "To be"}], "max_tokens": 6}
TEXT = {"model": "tiny", "prompt": "To be", "max_tokens": 6}
POST = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    if "tiny_server" not in sys.modules:
        spec = importlib.util.spec_from_file_location("tiny_server", TINY)
        sys.modules["tiny_server"] = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(sys.modules["tiny_server"])  # type: ignore[union-attr]
    tiny = sys.modules["tiny_server"]
    settings = ServeSettings(port=0, drain_seconds=2, cors_origins=("https://chat.example.org",))
    context = tiny.tiny_context(tmp_path, settings=settings)
    with start_server(context) as running:
        yield running
    tiny.close_context(context)


def ordinary_calls(http: httpx.Client) -> None:
    for path in (
        "/health",
        "/ready",
        "/metrics",
        "/v1/models",
        "/v1/models/tiny",
        "/v1/bill",
        "/tokenizer_info",
    ):
        assert http.get(path).status_code == 200, path
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)):
        reply = http.post(path, json=body | {"n": 2})
        assert http.get(f"/v1/receipts/{reply.headers['x-request-id']}").status_code == 200
        assert http.post(path, json=body | {"stream": True}).text.endswith("[DONE]\n\n")
    assert http.post("/v1/completions", json=TEXT | {"echo": True, "logprobs": 2, "max_tokens": 0}).is_success
    assert http.post("/tokenize", json={"prompt": "a"}).is_success


def refused_calls(http: httpx.Client) -> None:
    bad = (
        {},
        CHAT | {"tools": [{}]},
        CHAT | {"model": "nobody"},
        CHAT | {"n": 99},
        {**TEXT, "prompt": [10**9]},
    )
    for body in bad:
        assert 400 <= http.post("/v1/chat/completions", json=body).status_code < 500
    assert http.post(
        "/v1/completions", content=b"{", headers={"content-type": "application/json"}
    ).is_client_error
    assert http.post("/v1/completions", json=TEXT | {"prompt": "a" * (5 << 20)}).status_code == 413
    assert http.get("/v1/completions").status_code == 405
    assert http.get("/nowhere").status_code == 404
    assert http.options("/v1/models", headers={"origin": "https://evil.example"}).is_client_error


def rude_connections(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps(TEXT | {"max_tokens": 400, "stream": True}).encode()
    asked = POST + b"content-length: %d\r\n\r\n" % len(body) + body
    for request, read in (
        (b"", False),
        (b"\x16\x03\x01", True),
        (POST, False),
        (asked[:-3], False),
        (asked, True),
        (asked, False),
        (asked + asked, True),
        (POST + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\n{}", True),
        (POST + b"connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 2\r\n\r\n{}", True),
        (b"GET /v1/models HTTP/1.0\r\n\r\n", True),
    ):
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(request)
            if request == asked and not read:
                connection.shutdown(socket.SHUT_WR)  # half closed: taken for a client that has gone
                connection.recv(64)
            if read:
                connection.recv(64)
            connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )  # close by a reset


def test_a_session_of_calls_leaves_a_clean_log(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), httpx.Client(base_url=server.url, timeout=30) as http:
        ordinary_calls(http)
        refused_calls(http)
        rude_connections(server.url)
        time.sleep(0.3)
        ordinary_calls(http)
        with http.stream("POST", "/v1/completions", json=TEXT | {"max_tokens": 400, "stream": True}) as reply:
            next(reply.iter_lines())
            server.stop()
    loud = [
        f"{record.name}: {record.getMessage()}" for record in caplog.records if record.levelno > logging.INFO
    ]
    assert loud == []


def test_the_watch_sees_a_loud_line(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("tuition.serve").warning("planted")
    assert [record.getMessage() for record in caplog.records] == ["planted"]
