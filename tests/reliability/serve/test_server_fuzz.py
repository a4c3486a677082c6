"""S8: whatever stands in a body, the answer is never a server error, and the engine goes on."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server_thread import RunningServer, start_server


@pytest.fixture(scope="module")
def real(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, RunningServer]]:
    """A real engine on a tiny network."""
    context = tiny.tiny_context(tmp_path_factory.mktemp("real"))
    with start_server(context) as server:
        yield context, server
    tiny.close_context(context)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["tiny", "user", "system", "text", "\ud800", "\x00", "<|im_end|>"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)
names = [
    "messages",
    "prompt",
    "max_tokens",
    "n",
    "stop",
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "stream",
    "stream_options",
    "echo",
    "tools",
    "response_format",
    "suffix",
    "best_of",
    "chat_template_kwargs",
    "repetition_penalty",
    "ignore_eos",
    "stop_token_ids",
    "model",
    "user",
    "unknown",
]
bodies = st.fixed_dictionaries(
    {"model": st.just("tiny")},
    optional={
        "messages": st.just([{"role": "user", "content": "a"}]) | json_values,
        "prompt": st.just("a") | json_values,
        "max_tokens": st.integers(-1, 4) | json_values,
    },
)
odd = st.dictionaries(st.sampled_from(names), json_values, max_size=3)


@pytest.fixture(scope="module")
def fuzzed(real: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=real[1].url, timeout=60) as http:
        yield http


def check_no_5xx(http: httpx.Client, path: str, content: bytes) -> None:
    reply = http.post(path, content=content, headers={"content-type": "application/json"})
    assert reply.status_code < 500, (content, reply.text)
    if reply.status_code >= 400:
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"]),
    bodies,
    odd,
    st.integers(0, 20),
)
def test_no_body_makes_a_server_error(
    fuzzed: httpx.Client, path: str, body: dict[str, Any], extra: dict[str, Any], damage: int
) -> None:
    content = json.dumps({"max_tokens": 2, **body, **extra}).encode("utf-8", "surrogatepass")
    if damage < 3:  # cut, doubled, flipped
        content = [content[: len(content) // 2], content * 2, content[:5] + b"\xff" + content[6:]][damage]
    check_no_5xx(fuzzed, path, content)


def test_the_engine_still_runs_after_the_fuzz(fuzzed: httpx.Client, real: Any) -> None:
    reply = fuzzed.post("/v1/completions", json={"model": "tiny", "prompt": "a", "max_tokens": 2})
    assert reply.status_code == 200
    assert real[0].models["tiny"].service.stats().state == "running"
