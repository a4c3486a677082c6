"""Clients that send slowly, without end, or no HTTP: answered in the shape of every error, and let go."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from server_thread import start_server
from tuition.serve.connection import MAX_HEAD_BYTES, Connection

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.fixture
def url(tiny: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Connection, "arrival_seconds", 0.5)
    context = tiny.tiny_context(tmp_path, script=tiny.Script(["to be or not to be"]))
    with start_server(context) as server:
        yield server.url
    tiny.close_context(context)


def exchange(url: str, *pieces: bytes) -> tuple[int, dict[str, Any]]:
    """Send and read until the server closes; it has to."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        for piece in pieces:
            connection.sendall(piece)
        reply = b""
        while part := connection.recv(65_536):
            reply += part
    if not reply:
        return 0, {}
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize(
    "begun",
    [b"G", HEAD, HEAD + b"content-length: 500\r\n\r\n{", HEAD + b"transfer-encoding: chunked\r\n\r\n1"],
)
def test_a_request_that_never_ends_is_given_up(url: str, begun: bytes) -> None:
    status, error = exchange(url, begun)
    assert (status, error["code"]) == (408, "request_timeout")
    assert "0.5 seconds" in error["message"]


def test_a_connection_without_a_request_is_closed_in_silence(url: str) -> None:
    assert exchange(url) == (0, {})


@pytest.mark.parametrize("begun", [b"GET /", HEAD + b"x: "])
def test_a_head_without_end_is_refused(url: str, begun: bytes) -> None:
    host, port = url.removeprefix("http://").split(":")
    flood = begun + b"a" * (1_000 * MAX_HEAD_BYTES)
    with socket.create_connection((host, int(port)), 10) as connection, pytest.raises(OSError, match=r"."):
        connection.sendall(flood)
    assert httpx.get(f"{url}/health").status_code == 200


@pytest.mark.parametrize(
    "request_", [b"\x16\x03\x01\r\n\r\n", b"FOO / HTTP/1.1\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_http_gets_an_error_of_the_same_shape(url: str, request_: bytes) -> None:
    status, error = exchange(url, request_)
    assert (status, error["code"], error["type"]) == (400, "invalid_http", "invalid_request_error")


def test_a_reply_may_take_longer_than_a_request(url: str) -> None:
    body = {"prompt": "x", "model": httpx.get(f"{url}/v1/models").json()["data"][0]["id"], "stream": True}
    with httpx.Client() as client:
        for _ in range(2):  # the second one over the same connection
            assert client.post(f"{url}/v1/completions", json=body).text.endswith("data: [DONE]\n\n")
