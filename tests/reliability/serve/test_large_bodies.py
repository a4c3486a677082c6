"""Large bodies: refused by their size before they are encoded, in a lane of their own, while others go on."""

import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

JSON = {"content-type": "application/json"}
LARGE = 4_000_000
HUGE: dict[str, tuple[str, Any]] = {
    "emoji": ("chat", "🙂" * (LARGE // 4)),
    "CJK": ("chat", "你好" * (LARGE // 6)),
    "parts": ("chat", [{"type": "text", "text": "a"}] * (LARGE // 32)),
    "messages": ("messages", ["a"] * (LARGE // 40)),
    "one text": ("prompt", "the rose " * (LARGE // 9)),
    "many prompts": ("prompt", ["a"] * (LARGE // 4)),
    "many lists": ("prompt", [[1]] * (LARGE // 5)),
    "many ids": ("prompt", [1] * (LARGE // 3)),
    "biases": ("bias", {str(index): 1 for index in range(LARGE // 12)}),
    "fields": ("fields", {f"x{index}": 1 for index in range(LARGE // 12)}),
}
RAW = {
    "deep": b'"a":' + b"[" * (LARGE // 2) + b"]" * (LARGE // 2),
    "numbers": b'"prompt":[' + b",".join([b"0.5"] * (LARGE // 4)) + b"]",
    "digits": b'"messages":[{"role":"user","content":"a"}],"chat_template_kwargs":{"a":['
    + b",".join([b"9" * 4_000] * (LARGE // 4_001))
    + b"]}",
    "escapes": b'"prompt":"' + b"\\u4f60" * (LARGE // 6) + b'"',
    "key given twice": b'"metadata":{'
    + b"".join(b'"%d":1,' % index for index in range(LARGE // 12))
    + b'"7":1}',
}
TOO_LONG = ("emoji", "CJK", "parts", "messages", "one text", "many ids", "escapes")
ACCEPTED: dict[str, tuple[str, dict[str, Any]]] = {
    "no effect": (
        "/v1/completions",
        {"prompt": "a", "max_tokens": 4, "user": "the rose " * 110_000, "metadata": {"a": [1] * 500_000}},
    ),
    "many ids": ("/v1/completions", {"prompt": [[1] * 500] * 100, "max_tokens": 1}),
    "values for the template": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "a", "x": [1] * 49_000}], "max_tokens": 4},
    ),
    "text for the template": (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "a"}],
            "max_tokens": 4,
            "chat_template_kwargs": {"x": "the rose\n" * 110_000},
        },
    ),
    "tokenize": ("/tokenize", {"prompt": "the rose " * 110_000}),
    "detokenize": ("/detokenize", {"tokens": [5] * 600_000}),
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, new_child: Callable[..., Any]) -> Iterator[str]:
    """A server in a process of its own: what holds its interpreter must not hold ours."""
    started = new_child(tmp_path_factory.mktemp("large") / "books")
    yield started.url
    started.end()


@contextmanager
def stream_gaps(url: str) -> Iterator[list[float]]:
    """The time between two pieces of replies that are streamed meanwhile, one after the other, seconds."""
    gaps, over = list[float](), threading.Event()
    body = {"model": "tiny", "prompt": "To be", "max_tokens": 400, "ignore_eos": True, "stream": True}

    def listen() -> None:
        last = None
        with httpx.Client(base_url=url, timeout=60) as http:
            while not over.is_set():
                with http.stream("POST", "/v1/completions", json=body) as reply:
                    assert reply.status_code == 200
                    for line in reply.iter_lines():
                        if line.startswith("data: {"):
                            now = time.perf_counter()
                            if last is not None:
                                gaps.append(now - last)
                            last = now

    thread = threading.Thread(target=listen)
    thread.start()
    while len(gaps) < 3:  # the first call connects
        time.sleep(0.01)
    gaps.clear()
    try:
        yield gaps
    finally:
        over.set()
        thread.join()


def body_of(kind: str) -> tuple[str, bytes]:
    if kind in RAW:
        path = "/v1/chat/completions" if b"messages" in RAW[kind][:20] else "/v1/completions"
        return path, b'{"model":"tiny",' + RAW[kind] + b"}"
    where, value = HUGE[kind]
    fields: dict[str, Any] = {"prompt": value}
    if where == "bias":
        fields = {"prompt": "a", "logit_bias": value}
    elif where == "fields":
        fields = {"prompt": "a"} | value
    elif where != "prompt":
        contents = value if where == "messages" else [value]
        fields = {"messages": [{"role": "user", "content": content} for content in contents]}
    raw = json.dumps({"model": "tiny"} | fields, ensure_ascii=False, separators=(",", ":")).encode()
    return ("/v1/chat/completions" if "messages" in fields else "/v1/completions"), raw


EXTRA_S = 0.05
"""Most that a stream may wait longer between two pieces than without the large body."""
LOADED_EXTRA_S = 0.1
"""The same where other processes take the server's core at any time."""
QUIET = 1.5
"""Load of the machine below which it counts as quiet."""


def check_pace(url: str, path: str, raw: bytes) -> httpx.Response:
    """Send a body while a reply is streamed, which must keep its pace; returns the reply to the body."""
    extra = list[float]()
    is_quiet = os.getloadavg()[0] < QUIET
    while len(extra) < 4 and min(extra, default=1) > EXTRA_S:  # others seldom take the core each time
        with stream_gaps(url) as gaps:
            time.sleep(0.3)
            usual = statistics.median(gaps)
            gaps.clear()
            reply = httpx.post(url + path, content=raw, headers=JSON, timeout=60)
            time.sleep(0.1)
        extra.append(max(gaps, default=0.0) - usual)
    waited = ", ".join(f"{one * 1e3:.0f}" for one in extra)
    print(f"S10: {len(raw):,} bytes, a stream waited {waited} ms longer, {'quiet' if is_quiet else 'loaded'}")
    assert min(extra) < (EXTRA_S if is_quiet else LOADED_EXTRA_S)
    return reply


@pytest.mark.parametrize("kind", [*HUGE, *RAW])
def test_a_huge_request_is_refused_while_streams_keep_their_pace(url: str, kind: str) -> None:
    reply = check_pace(url, *body_of(kind))
    assert reply.status_code == 400
    code = "context_length_exceeded" if kind in TOO_LONG else "invalid_value"
    assert reply.json()["error"]["code"] == code, reply.text


@pytest.mark.parametrize("kind", ACCEPTED)
def test_a_large_request_is_answered_while_streams_keep_their_pace(url: str, kind: str) -> None:
    path, fields = ACCEPTED[kind]
    reply = check_pace(url, path, json.dumps({"model": "tiny"} | fields).encode())
    assert reply.status_code == 200, reply.text


def test_a_small_chat_does_not_wait_behind_large_bodies(url: str) -> None:
    path, raw = body_of("many prompts")

    def send() -> None:
        httpx.post(url + path, content=raw, headers=JSON, timeout=60)

    large = [threading.Thread(target=send) for _ in range(8)]
    for thread in large:
        thread.start()
    begin = time.monotonic()
    body = {"model": "tiny", "messages": [{"role": "user", "content": "To be"}], "max_tokens": 4}
    assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).status_code == 200
    took = time.monotonic() - begin
    for thread in large:
        thread.join()
    print(f"S13: a small chat beside 8 large bodies took {took * 1e3:.0f} ms")
    assert took < 3  # 30 s where large bodies and small ones wait in one line


def test_a_server_that_stops_leaves_no_process(tmp_path: Path, child: Callable[..., Any]) -> None:
    """By its own end and by a kill, which leaves it no time to end others."""
    path, raw = "/v1/completions", json.dumps({"model": "tiny", "prompt": ["a"] * 20_000}).encode()
    for number in (signal.SIGTERM, signal.SIGKILL):
        server = child(tmp_path / str(number))
        assert httpx.post(server.url + path, content=raw, headers=JSON, timeout=60).status_code == 400
        (worker,) = readers_of(server.process.pid)
        server.signal(number)
        server.process.wait(20)
        until = time.monotonic() + 10
        while worker.exists() and time.monotonic() < until:
            time.sleep(0.02)
        assert not worker.exists()


def readers_of(parent: int) -> list[Path]:
    """The processes of that server that read large bodies, as folders of /proc."""
    pids = Path(f"/proc/{parent}/task").glob("*/children")
    found = [Path("/proc", pid) for file in pids for pid in file.read_text().split()]
    return [one for one in found if b"body_worker" in (one / "cmdline").read_bytes()]


def test_a_large_text_is_encoded_outside_of_the_server(
    scripted: Callable[..., tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taking the ids of 4 MB holds an interpreter for a tenth of a second, in one piece."""
    context, server = scripted()
    tokenizer = context.models["tiny"].tokenizer
    small, large = "the rose", "the rose " * 12_000
    ids = {text: tokenizer.encode(text) for text in (small, large)}
    here: list[int] = []
    encode = tokenizer.encode
    monkeypatch.setattr(
        tokenizer, "encode", lambda text, **how: here.append(len(text)) or encode(text, **how)
    )
    for text in (small, large):
        reply = httpx.post(f"{server.url}/tokenize", json={"prompt": text}, timeout=60).json()
        assert (reply["tokens"], reply["count"]) == (ids[text], len(ids[text]))
    assert here == [len(small)]


def test_a_large_text_goes_to_tokens_and_back(url: str) -> None:
    text = "the rose " * 12_000
    said = httpx.post(f"{url}/tokenize", json={"prompt": text}, timeout=60).json()
    assert said["count"] == len(said["tokens"]) > 20_000
    assert httpx.post(f"{url}/detokenize", json={"tokens": said["tokens"]}, timeout=60).json() == {
        "prompt": text
    }
