"""Offered upgrades, pipelining, HTTP/1.0: every request gets its reply, and a shutdown is orderly."""

import base64
import itertools
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from server_thread import start_server
from tuition.books.books import open_books
from tuition.books.schema import requests
from tuition.core.workspace import open_workspace

BODY = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 3}).encode()
UPGRADES = {
    "h2c": b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n",
    "foo": b"upgrade: foo\r\nconnection: keep-alive, upgrade\r\n",
    "websocket without a key": b"connection: Upgrade\r\nupgrade: websocket\r\n",
    "websocket with a key": b"connection: Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: " + base64.b64encode(b"0123456789abcdef") + b"\r\n",
    "two protocols": b"upgrade: h2c, websocket\r\nconnection: upgrade, close\r\n",
    "two headers": b"upgrade: h2c\r\nupgrade: TLS/1.0\r\nconnection: upgrade\r\nconnection: keep-alive\r\n",
    "without connection": b"upgrade: websocket\r\n",
    "connection alone": b"connection: upgrade\r\n",
    "empty": b"connection: upgrade\r\nupgrade:\r\n",
}


@pytest.fixture(scope="module")
def url(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    context = tiny.tiny_context(tmp_path_factory.mktemp("books"), script=tiny.Script(["to be or not to be"]))
    with start_server(context) as server:
        yield server.url
    tiny.close_context(context)


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), 10)


def post(
    headers: bytes = b"", *, chunked: bool = False, body: bytes = BODY, version: bytes = b"1.1"
) -> bytes:
    head = (
        b"POST /v1/completions HTTP/" + version + b"\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    )
    if chunked:
        pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
        framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        return head + headers + b"transfer-encoding: chunked\r\n\r\n" + framed
    return head + headers + b"content-length: %d\r\n\r\n" % len(body) + body


def read_reply(stream: Any) -> tuple[int, dict[bytes, bytes], bytes]:
    """One reply of a connection; the body by its length, or to the end of the connection."""
    status = int(stream.readline().split()[1])
    headers = {}
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.partition(b": ")
        headers[name] = value
    length = headers.get(b"content-length")
    return status, headers, stream.read(-1 if length is None else int(length))


@pytest.mark.parametrize("segments", ["one", "head and body", "bytes"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("offer", UPGRADES)
def test_an_offered_upgrade_is_ignored(url: str, offer: str, chunked: bool, segments: str) -> None:
    request = post(UPGRADES[offer], chunked=chunked)
    border = request.index(b"\r\n\r\n") + 4
    cuts = {
        "one": [0],
        "head and body": [0, border],
        "bytes": sorted({*range(0, border, 29), *range(border, len(request), 11)}),
    }[segments]
    with connect(url) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for begin, end in itertools.pairwise([*cuts, len(request)]):
            connection.sendall(request[begin:end])
            if len(cuts) > 1:
                time.sleep(0.002)
        status, _, body = read_reply(connection.makefile("rb"))
    assert status == 200, body
    assert json.loads(body)["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("offer", UPGRADES)
def test_requests_behind_an_offered_upgrade_are_answered_in_order(url: str, offer: str) -> None:
    """All in one segment: the offer is neither the first nor the last of them."""
    offered = post(UPGRADES[offer].replace(b", close", b""))
    lookup = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n" + UPGRADES["h2c"] + b"\r\n"
    with connect(url) as connection:
        connection.sendall(post() + offered + lookup + offered + post(chunked=True))
        stream = connection.makefile("rb")
        replies = [read_reply(stream) for _ in range(5)]
    assert [status for status, _, _ in replies] == [200] * 5
    kinds = [json.loads(body)["object"] for _, _, body in replies]
    assert kinds == ["text_completion", "text_completion", "list", "text_completion", "text_completion"]


@pytest.mark.parametrize("path", [b"/", b"/nowhere", b"/v1/chat/completions"])
def test_a_websocket_handshake_that_is_none_is_answered_and_closed(url: str, path: bytes) -> None:
    request = (
        b"POST " + path + b" HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    )
    with connect(url) as connection:
        connection.sendall(request + b"content-length: 2\r\n\r\n{}")
        status, _, body = read_reply(connection.makefile("rb"))
    assert 400 <= status < 500
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_a_tunnel_is_refused(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n\r\n\x16\x03\x01")
        status, _, _ = read_reply(connection.makefile("rb"))
    assert status in (400, 405)


def test_garbage_behind_a_request_does_not_take_its_reply(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(post() + b"\x16\x03\x01 no HTTP\r\n\r\n")
        stream = connection.makefile("rb")
        status, _, body = read_reply(stream)
        assert (status, json.loads(body)["object"]) == (200, "text_completion")
        assert stream.read() == b"", "and the connection is closed behind it"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("offer", [b"", UPGRADES["h2c"]])
def test_http_1_0_gets_no_chunks_and_an_end_by_closing(url: str, stream: bool, offer: bytes) -> None:
    body = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 3, "stream": stream}).encode()
    with connect(url) as connection:
        connection.sendall(post(offer, body=body, version=b"1.0"))
        reply = connection.makefile("rb").read()
    head, _, content = reply.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    if stream:
        assert content.startswith(b"data: {")
        assert content.endswith(b"data: [DONE]\n\n")
    else:
        assert json.loads(content)["usage"]["completion_tokens"] == 3


def test_a_client_that_leaves_a_pipeline_stops_the_reply_under_way(tiny: Any, tmp_path: Path) -> None:
    context = tiny.tiny_context(
        tmp_path, script=tiny.Script(["to be or not to be that is the question " * 9], pause_s=0.02)
    )
    body = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 300, "stream": True}).encode()
    with start_server(context) as server:
        with connect(server.url) as connection:
            connection.sendall(post(body=body) * 3)
            connection.recv(64)
        streams, deadline = context.models["tiny"].service.streams, time.monotonic() + 10
        while not streams[0].cancelled and time.monotonic() < deadline:
            time.sleep(0.01)
        assert streams[0].cancelled
        assert len(streams) == 1, "those that waited behind it never began"
    tiny.close_context(context)


# What a connection may be in the middle of when the server is told to stop.
BEGUN = {
    "idle": b"",
    "half a head": b"POST /v1/completions HTTP/1.1\r\nhost: local",
    "half a body": post()[:-5],
    "half a chunk": post(chunked=True)[:-20],
    "an upgrade without a body": post(UPGRADES["h2c"])[: -len(BODY)],
    "an invalid websocket": b"GET / HTTP/1.1\r\nhost: localhost\r\n"
    + UPGRADES["websocket without a key"]
    + b"\r\n",
    "a websocket elsewhere": b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n"
    + UPGRADES["websocket with a key"]
    + b"\r\n",
    "a websocket": b"GET /_nicegui_ws/socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: localhost\r\n"
    + UPGRADES["websocket with a key"]
    + b"\r\n",
    "a websocket with too many headers": b"GET /_nicegui_ws/x HTTP/1.1\r\nhost: localhost\r\n"
    + b"".join(b"x-%d: y\r\n" % i for i in range(300))
    + UPGRADES["websocket with a key"]
    + b"\r\n",
    "a websocket and a request": b"GET /_nicegui_ws/socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n"
    + b"host: localhost\r\n"
    + UPGRADES["websocket with a key"]
    + b"\r\n"
    + post(),
}


def test_a_shutdown_drains_and_books_whatever_connections_do(
    child: Callable[..., Any], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be that is the question " * 4, encoding="utf-8")
    server = child(tmp_path / "books", "--text", str(text), "--pause", "0.05", "--drain", "20", "--pages")
    lines: list[str] = []
    started = threading.Event()

    def stream() -> None:
        body = {"model": "tiny", "prompt": "a", "max_tokens": 40, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as reply:
            for line in reply.iter_lines():
                lines.append(line)
                started.set()

    reader = threading.Thread(target=stream)
    reader.start()
    assert started.wait(20)
    held = [connect(server.url) for _ in range(2) for _ in BEGUN]
    try:
        for connection, begun in zip(held, itertools.cycle(BEGUN.values()), strict=False):
            connection.sendall(begun)
        time.sleep(0.3)
        server.signal(signal.SIGTERM)
        deadline = time.monotonic() + 20
        while httpx.get(f"{server.url}/ready").status_code == 200 and time.monotonic() < deadline:
            time.sleep(0.01)
        refused = httpx.post(
            f"{server.url}/v1/completions", content=BODY, headers={"content-type": "application/json"}
        )
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        assert httpx.get(f"{server.url}/ready").status_code == 503
        reader.join(20)
        assert lines[-2] == "data: [DONE]"
        assert server.process.wait(15) == 0
    finally:
        for connection in held:
            connection.close()
    assert server.process.errors == ""
    with open_books(open_workspace(tmp_path / "books")) as books:
        rows = books.read(lambda c: c.execute(select(requests)).all())
    assert [(row.finish_reason, row.generated_tokens) for row in rows] == [("length", 40)]
