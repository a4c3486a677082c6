"""Large bodies: refused by their size before they are encoded, in a lane of their own, while others go on."""

import gc
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
BY_COUNT = ("many prompts", "many lists", "biases", "fields")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, new_child: Callable[..., Any]) -> Iterator[str]:
    """A server in a process of its own: what holds its interpreter must not hold ours."""
    started = new_child(tmp_path_factory.mktemp("large") / "books")
    yield started.url
    started.end()


@contextmanager
def stream_gaps(url: str) -> Iterator[list[float]]:
    """The time between two pieces of a reply that is streamed meanwhile, seconds."""
    gaps, over = list[float](), threading.Event()
    body = {"model": "tiny", "prompt": "To be", "max_tokens": 400, "ignore_eos": True, "stream": True}

    def listen() -> None:
        with httpx.Client(base_url=url, timeout=60) as http:
            while not over.is_set():
                with http.stream("POST", "/v1/completions", json=body) as reply:
                    assert reply.status_code == 200
                    last = None
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


def parsing_s(raw: bytes) -> float:
    """Seconds that parsing this body takes here and now; it holds the interpreter and cannot be cut up."""
    gc.disable()
    begin = time.perf_counter()
    json.loads(raw)
    took = time.perf_counter() - begin
    gc.enable()
    return took


EXTRA_S = 0.05
"""Most that a stream may wait longer between two pieces than without the large body."""
QUIET = 1.5
"""Load of the machine below which this is held; above it the server waits for a core at any time."""


@pytest.mark.parametrize("kind", HUGE)
def test_a_huge_request_is_refused_while_streams_keep_their_pace(url: str, kind: str) -> None:
    path, raw = body_of(kind)
    extra, parsing = [], []
    for _ in range(3):  # a busy machine may stop the server at any time, but hardly each time
        with stream_gaps(url) as gaps:
            time.sleep(0.3)
            usual = statistics.median(gaps)
            gaps.clear()
            reply = httpx.post(url + path, content=raw, headers=JSON, timeout=60)
            time.sleep(0.1)
        extra.append(max(gaps, default=0.0) - usual)
        parsing.append(parsing_s(raw))
        assert reply.status_code == 400
        code = "invalid_value" if kind in BY_COUNT else "context_length_exceeded"
        assert reply.json()["error"]["code"] == code, reply.text
    is_quiet = os.getloadavg()[0] < QUIET
    print(
        f"S10 {kind}: {len(raw):,} bytes, a stream waited {min(extra) * 1e3:.0f} ms longer, "
        f"parsing takes {min(parsing) * 1e3:.0f} ms, {'quiet' if is_quiet else 'loaded'}"
    )
    # loaded: many times the parsing where a body is validated in one piece
    assert min(extra) < (EXTRA_S if is_quiet else max(0.25, 4 * min(parsing)))


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
