"""What clients send is honoured or refused, field by field, under the protocol's own names."""

import gzip
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import httpx
import pytest

from reliability.serve import tiny_server as tiny
from server_thread import start_server
from tuition.core.errors import BooksError
from tuition.serve.settings import ServeSettings

ORIGIN = "https://chat.example.org"
CONTEXT = 512


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    settings = ServeSettings(port=0, cors_origins=(ORIGIN,))
    made = tiny.tiny_context(tmp_path_factory.mktemp("server"), settings=settings, context_length=CONTEXT)
    yield made
    tiny.close_context(made)


@pytest.fixture(scope="module")
def http(context: Any) -> Iterator[httpx.Client]:
    with start_server(context) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def complete(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    reply = http.post("/v1/completions", json={"model": "tiny", "prompt": "To be", "max_tokens": 8} | fields)
    assert reply.status_code == 200, reply.text
    return reply.json()


def refusal(reply: httpx.Response) -> tuple[int, str | None]:
    return reply.status_code, reply.json()["error"]["code"]


def test_top_p_0_takes_the_most_likely_token(http: httpx.Client) -> None:
    greedy = complete(http, temperature=0)["choices"][0]["text"]
    assert {complete(http, top_p=0, temperature=2)["choices"][0]["text"] for _ in range(3)} == {greedy}


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
def test_an_encoded_body_is_refused_by_its_encoding(http: httpx.Client, path: str, coding: str) -> None:
    headers = {"content-type": "application/json", "content-encoding": coding}
    reply = http.post(path, content=gzip.compress(b'{"model": "tiny", "prompt": "a"}'), headers=headers)
    assert refusal(reply) == (415, "unsupported_encoding")
    assert coding in reply.json()["error"]["message"]
    assert reply.headers["accept-encoding"] == "identity"
    plain = headers | {"content-encoding": "identity"}
    assert http.post("/tokenize", content=b'{"prompt": "a"}', headers=plain).status_code == 200


@pytest.mark.parametrize("room", [1, 10, 15, 16, 40])
def test_without_max_tokens_what_fits_is_generated(http: httpx.Client, context: Any, room: int) -> None:
    asked: dict[str, Any] = {"prompt": [5] * (CONTEXT - room), "max_tokens": None, "ignore_eos": True}
    assert complete(http, **asked)["usage"]["completion_tokens"] == min(room, 16)
    full = http.post("/v1/completions", json={"model": "tiny", "prompt": [5] * CONTEXT})
    assert refusal(full) == (400, "context_length_exceeded")


def test_a_reply_has_at_least_min_tokens(
    http: httpx.Client, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = complete(http, temperature=0, logprobs=0)["choices"][0]["logprobs"]["tokens"]
    tokenizer = context.models["tiny"].tokenizer
    ends = tuple(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == free[0].encode())
    monkeypatch.setattr(context.models["tiny"], "stop_ids", ends)
    assert complete(http, temperature=0)["usage"]["completion_tokens"] == 1
    for least in (2, 8):
        reply = complete(http, temperature=0, min_tokens=least, logprobs=0)
        assert reply["usage"]["completion_tokens"] >= least
        assert free[0] not in reply["choices"][0]["logprobs"]["tokens"][: least - 1]
    body = {"model": "tiny", "prompt": "a", "max_tokens": 4, "min_tokens": 5}
    assert http.post("/v1/completions", json=body).json()["error"]["param"] == "min_tokens"


@pytest.mark.parametrize("extra", [{}, {"access-control-request-private-network": "true"}])
def test_a_preflight_of_an_allowed_page_is_answered(http: httpx.Client, extra: dict[str, str]) -> None:
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    } | extra
    allowed = http.options("/v1/completions", headers={"origin": ORIGIN} | asked)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    if extra:
        assert allowed.headers["access-control-allow-private-network"] == "true"
    other = http.options("/v1/completions", headers={"origin": "https://evil.example"} | asked)
    assert refusal(other) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in other.headers


def test_usage_and_receipt_count_a_prompt_once_and_name_what_was_computed(http: httpx.Client) -> None:
    prompts = ["To be, or not to be, that is the question" * 2, "or"]
    reply = http.post("/v1/completions", json={
        "model": "tiny", "prompt": prompts, "max_tokens": 5, "n": 3, "ignore_eos": True,
    })  # fmt: skip
    usage = reply.json()["usage"]
    receipt = http.get(f"/v1/receipts/{reply.headers['x-request-id']}").json()
    sent = sum(http.post("/tokenize", json={"prompt": prompt}).json()["count"] for prompt in prompts)
    assert usage["prompt_tokens"] == receipt["prompt_tokens"] == sent
    assert usage["completion_tokens"] == receipt["completion_tokens"] == 30
    assert usage["prompt_tokens_details"]["cached_tokens"] == receipt["cached_tokens"]
    assert receipt["computed_tokens"] >= sent - receipt["cached_tokens"] + 30 - 6


def test_text_offsets_count_from_the_beginning_of_the_prompt(http: httpx.Client) -> None:
    asked: dict[str, Any] = {"prompt": ["Tö be", "or"], "logprobs": 0, "temperature": 0}
    plain, echoed = (complete(http, **asked, echo=echo)["choices"] for echo in (False, True))
    for without, along, prompt in zip(plain, echoed, asked["prompt"], strict=True):
        told = without["logprobs"]["text_offset"]
        assert told[0] == len(prompt)
        assert told == along["logprobs"]["text_offset"][-len(told) :]


@pytest.mark.parametrize("size", [5 << 20, 100 << 20])
@pytest.mark.parametrize(("path", "status"), [("/v1/completions", 413), ("/nowhere", 404)])
def test_who_sends_too_much_can_read_the_refusal(
    http: httpx.Client, path: str, status: int, size: int
) -> None:
    """A client that sends all of its body before it reads."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += f"connection: close\r\ncontent-length: {size}\r\n\r\n"
    with socket.create_connection((http.base_url.host, http.base_url.port or 80), 60) as connection:
        connection.sendall(head.encode())
        for _ in range(size >> 20):
            connection.sendall(b"x" * (1 << 20))
        reply = connection.makefile("rb").read()
    assert reply.startswith(b"HTTP/1.1 %d " % status)
    assert b'"code"' in reply


def test_a_server_whose_books_are_full_is_not_ready(
    http: httpx.Client, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fn: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_exception(
            BooksError(f"the books at {context.books.name} could not be written: disk is full")
        )
        return future

    assert http.get("/ready").json() == {"status": "ready"}
    with monkeypatch.context() as broken:
        broken.setattr(context.books, "write", full)
        time.sleep(1.1)
        reply = http.get("/ready")
        assert (reply.status_code, reply.json()["status"]) == (503, "books unavailable")
        assert "disk is full" in reply.json()["reason"]
        assert context.books.name not in reply.text
        assert int(reply.headers["retry-after"]) >= 1
        assert http.get("/health").status_code == 200
    time.sleep(1.1)
    assert http.get("/ready").status_code == 200
