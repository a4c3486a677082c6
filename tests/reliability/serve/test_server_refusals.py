"""Who has no key, hostile bodies and paths, methods and origins that are not taken: each is refused."""

import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from starlette.responses import HTMLResponse
from starlette.testclient import TestClient

from tuition.books.schema import requests
from tuition.serve.app import create_app
from tuition.serve.middleware import UNREAD_BYTES
from tuition.serve.settings import ServeSettings

KEY = "k-secret-canary"


def test_a_body_without_end_is_cut_at_the_cap(scripted: Any) -> None:
    _, server = scripted(settings=ServeSettings(port=0, max_body_bytes=100_000))
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(2_000):
            sent += 65_536
            yield b"x" * 65_536

    headers = {"content-type": "application/json"}
    try:
        reply = httpx.post(f"{server.url}/v1/completions", content=endless(), headers=headers, timeout=20)
        assert reply.status_code == 413
    except httpx.HTTPError:
        pass  # the connection is closed while we still send: as good
    assert sent < 2 * UNREAD_BYTES
    assert httpx.get(f"{server.url}/health").status_code == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_who_sends_all_of_too_large_a_body_before_reading_reads_the_refusal(
    scripted: Any, chunked: bool
) -> None:
    _, server = scripted(settings=ServeSettings(port=0, max_body_bytes=100_000))
    body = b"x" * (5 << 20)
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    reply = raw(server.url, head + framing + b"\r\nconnection: close\r\n\r\n" + sent)
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in reply


def raw(url: str, request: bytes) -> bytes:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(request)
        return connection.recv(4096)


def paths_of(routes: Iterable[Any]) -> Iterator[str]:
    """Every path of an application, through the routers it includes."""
    for route in routes:
        if hasattr(route, "original_router"):
            yield from paths_of(route.original_router.routes)
        else:
            yield route.path


def test_every_route_but_health_wants_the_key(scripted: Any) -> None:
    context, server = scripted(api_key=KEY)
    paths = list(paths_of(create_app(context).routes))
    assert "/v1/chat/completions" in paths
    checked = 0
    with httpx.Client(base_url=server.url) as http:
        for path in paths:
            concrete = (
                path.replace("{model_id:path}", "tiny")
                .replace("{rest:path}", "x")
                .replace("{request_id}", "r")
            )
            for form in (concrete, "/" + concrete, concrete + "/", concrete.replace("/", "/%2e/", 1)):
                for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
                    for headers in ({}, {"authorization": "Bearer wrong"}, {"host": "localhost/health"}):
                        status = http.request(method, form, headers=headers).status_code
                        public = form in ("/health", "/ready")
                        assert public or status in (401, 400), (method, form, headers, status)
                        checked += 1
        good = {"authorization": f"Bearer {KEY}"}
        assert http.get("/v1/models", headers=good).status_code == 200
    for path in (
        b"/v1/models",
        b"//health/../v1/models",
        b"/V1/models",
        b"/metrics?/health",
        b"/health%2f../metrics",
    ):
        assert b" 401 " in raw(server.url, b"GET " + path + b" HTTP/1.0\r\n\r\n").split(b"\r\n")[0]
    print(f"S7: {checked} calls without a key, 0 passed")


@pytest.mark.parametrize(
    "path",
    ["/v1/models", "/v1/models/tiny", "/metrics", "/health", "/v1/chat/completions", "/sign-in", "/"],
)
def test_a_method_that_a_path_does_not_take_is_refused_as_every_error_with_those_it_takes(
    scripted: Any, path: str
) -> None:
    """Also beside pages, which take every path and method, and know errors in HTML only."""
    context, _ = scripted()
    app = create_app(context)

    async def page(scope: Any, receive: Any, send: Any) -> None:
        here = (scope["method"], scope["path"]) == ("GET", "/")
        await HTMLResponse("<h1>a page</h1>", 200 if here else 404)(scope, receive, send)

    app.state.access.admit_pages(["/"], ["/_parts/"])
    app.mount("/", page)
    takes = "POST" if path.endswith(("completions", "sign-in")) else "GET, HEAD"
    with TestClient(app, base_url="http://localhost") as http:
        if takes == "GET, HEAD":
            whole, head = http.get(path), http.head(path)
            assert (whole.status_code, head.status_code, head.content) == (200, 200, b"")
            assert head.headers["content-type"] == whole.headers["content-type"]
        for method in {"HEAD", "TRACE", "PUT", "PROPFIND", "OPTIONS", "GET", "POST"} - set(takes.split(", ")):
            reply = http.request(method, path)
            assert (reply.status_code, reply.headers["allow"]) == (405, takes), method
            assert reply.headers["content-type"] == "application/json"
            assert method == "HEAD" or reply.json()["error"]["code"] == "method_not_allowed"
        for method in ("GET", "TRACE"):
            error = http.request(method, "/v1/nothing").json()["error"]
            assert (error["code"], "base URL" in error["message"]) == ("unknown_endpoint", False)
        browser = {"accept": "text/html,*/*"}
        for unknown in (http.get("/nothing", headers=browser), http.post("/_parts/x")):
            assert (unknown.status_code, unknown.text[:4]) == (404, "<h1>")
        for unknown in (http.get("/nothing"), http.post("/chat/completions", headers=browser)):
            assert "ends in /v1" in unknown.json()["error"]["message"]


def test_a_token_biased_twice_is_refused_by_the_second_of_its_names(scripted: Any) -> None:
    _, server = scripted()
    body = {"model": "tiny", "prompt": "a", "logit_bias": {"5": 1, "05": 2}}
    reply = httpx.post(f"{server.url}/v1/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "logit_bias.05")
    assert "token 5 a second time" in reply.json()["error"]["message"]


def test_the_key_is_in_no_answer_and_in_no_file(scripted: Any) -> None:
    context, server = scripted(api_key=KEY)
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {KEY}"}) as http:
        assert http.post("/v1/completions", json={"model": "tiny", "prompt": "a"}).status_code == 200
        texts = [http.get(path).text for path in ("/metrics", "/v1/models", "/v1/bill", "/nothing")]
    assert KEY not in "".join(texts)
    keys = context.books.read(lambda c: c.execute(select(requests.c.api_key_id)).scalars().all())
    assert keys == ["environment"]
    files = [path for path in Path(context.books.name).parent.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in files)
    assert KEY not in repr(context)


def test_cross_origin_calls_work_for_allowed_origins_only(scripted: Any) -> None:
    origin = "https://chat.example"
    _, server = scripted(api_key=KEY, settings=ServeSettings(port=0, cors_origins=(origin,)))
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    with httpx.Client(base_url=server.url) as http:
        allowed = http.options("/v1/chat/completions", headers=asked)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == origin
        other = http.options("/v1/chat/completions", headers=asked | {"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        asked = {"origin": origin, "authorization": f"Bearer {KEY}", "content-type": "application/json"}
        refusals = [
            http.get("/v1/nothing", headers=asked),
            http.put("/v1/models", headers=asked),
            http.get("/v1/models", headers={"origin": origin}),
            http.post("/v1/completions", headers=asked, content=b" " * (5 << 20)),
        ]
        assert [refused.status_code for refused in refusals] == [404, 405, 401, 413]
        for refused in refusals:  # without it the page could not read why
            assert refused.headers["access-control-allow-origin"] == origin
            assert "x-request-id" in refused.headers["access-control-expose-headers"]


def test_a_sign_in_form_of_many_fields_is_refused(scripted: Any) -> None:
    """S8: a form that the parser gives up on is a wrong key, not a fault of the server."""
    _, server = scripted(api_key=KEY)
    headers = {"content-type": "application/x-www-form-urlencoded"}
    reply = httpx.post(f"{server.url}/sign-in", content="key=a&a&b&c&d&e", headers=headers)
    assert reply.status_code == 401
