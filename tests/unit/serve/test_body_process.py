"""Large bodies are read in another process, with the same outcome as small ones here."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tuition.core.errors import TuitionError
from tuition.serve.body import parse_body
from tuition.serve.body_process import BodyProcess
from tuition.serve.bounds import MAX_VALUES, BodyLimits, ModelLimits, check_sizes
from tuition.serve.errors import ApiError, as_api_error
from tuition.serve.protocol import ChatRequest, CompletionRequest, read_request
from tuition.tokenizer.folder import FolderSettings
from tuition.tokenizer.tokenizer import Tokenizer
from tuition.tokenizer.training import train_bpe

LIMITS = BodyLimits(256, {"m": ModelLimits(1_000, 16), "long": ModelLimits(100_000, None)})
TALK = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "\n好"}]}]
CALLS = [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"arguments": "{}"}}], "x": None}]
BODIES: dict[str, tuple[type[Any], bytes | dict[str, Any]]] = {
    "text": (CompletionRequest, {"prompt": 'To be \\ " \x00 好'}),
    "texts": (CompletionRequest, {"prompt": ["a", ""], "stop": "b", "temperature": 0.1, "seed": None}),
    "ids": (CompletionRequest, {"prompt": [1, 2, 3], "logit_bias": {"5": 1}, "stream": True}),
    "lists of ids": (CompletionRequest, {"prompt": [[1, 2], [3]], "echo": True, "max_tokens": 0}),
    "harmless": (CompletionRequest, {"prompt": "a", "cache_prompt": [1], "functions": []}),
    "chat": (ChatRequest, {"messages": TALK, "chat_template_kwargs": {"a": [1.5, None]}}),
    "calls": (ChatRequest, {"messages": [*CALLS, *TALK], "stop_token_ids": [3]}),
    "stream options": (
        ChatRequest,
        {"messages": TALK, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "no JSON": (ChatRequest, b"{"),
    "no UTF-8": (ChatRequest, b'{"a": "\xff"}'),
    "half a pair": (ChatRequest, b'{"a": "\\ud800"}'),
    "twice": (ChatRequest, b'{"a": 1, "a": 2}'),
    "deep": (ChatRequest, b'{"a": ' + b"[" * 100_000),
    "many digits": (ChatRequest, b'{"a": ' + b"9" * 5_000 + b"}"),
    "no model": (ChatRequest, b"{}"),
    "wrong type": (ChatRequest, {"messages": [{"role": "user", "content": 1}]}),
    "wrong number": (CompletionRequest, {"prompt": "a", "temperature": 3}),
    "mixed": (CompletionRequest, {"prompt": ["a", 1]}),
    "nothing": (CompletionRequest, {"prompt": []}),
    "misspelt": (CompletionRequest, {"prompt": "a", "temprature": 1}),
    "refused": (CompletionRequest, {"prompt": "a", "tools": [1]}),
    "too long": (CompletionRequest, {"prompt": "a" * 20_000}),
    "too many": (CompletionRequest, {"prompt": ["a"] * 257}),
    "too many fields": (CompletionRequest, {"prompt": "a"} | {f"x{index}": 1 for index in range(1_001)}),
}


@pytest.fixture(scope="module")
def bodies() -> Iterator[BodyProcess]:
    process = BodyProcess()
    yield process
    process.close()


def raw_of(body: bytes | dict[str, Any], model: str = "m") -> bytes:
    return body if isinstance(body, bytes) else json.dumps({"model": model} | body).encode()


def all_workers() -> set[int]:
    """Processes that read bodies and are children of this one."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_worker = b"body_worker" in (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        if is_worker and parent == os.getpid():
            found.add(int(folder.name))
    return found


@pytest.fixture
def workers() -> Callable[[], list[int]]:
    """Lists those that were started since the test began."""
    before = all_workers()
    return lambda: sorted(all_workers() - before)


@pytest.mark.parametrize("name", BODIES)
def test_the_other_process_says_what_this_one_would(bodies: BodyProcess, name: str) -> None:
    kind, body = BODIES[name]
    raw = raw_of(body)
    try:
        fields = parse_body(raw)
        check_sizes(fields, LIMITS)
        here = read_request(kind, fields)
    except (TuitionError, ApiError) as error:
        told = as_api_error(error, "")
        with pytest.raises(ApiError) as caught:
            bodies.read(kind, raw, LIMITS)
        assert (caught.value.status, caught.value.payload) == (told.status, told.payload)
    else:
        there = bodies.read(kind, raw, LIMITS)
        for field in kind.model_fields:
            assert getattr(there, field) == getattr(here, field)


def test_what_has_no_effect_does_not_come_back(bodies: BodyProcess) -> None:
    read = bodies.read(
        CompletionRequest, raw_of({"prompt": "a", "metadata": {"x": [1] * 200_000}, "id_slot": [1]}), LIMITS
    )
    assert read.model_dump(exclude_unset=True) == {"model": "m", "prompt": ("a",)}


def test_token_ids_come_back_as_they_were(bodies: BodyProcess) -> None:
    prompts = tuple(tuple(range(count, 40_000 + count)) for count in range(8))
    assert bodies.read(CompletionRequest, raw_of({"prompt": prompts}, "long"), LIMITS).prompt == prompts


@pytest.mark.parametrize("value", [[1] * MAX_VALUES, {"a": [int("9" * 4_000)] * 250}], ids=["many", "digits"])
def test_a_chat_template_is_given_a_bounded_number_of_values(bodies: BodyProcess, value: Any) -> None:
    for body, field in (
        ({"messages": [{"role": "user", "content": "a", "x": value}]}, "messages"),
        ({"messages": TALK, "chat_template_kwargs": {"x": value}}, "chat_template_kwargs"),
    ):
        with pytest.raises(
            ApiError, match=rf"^{field}: holds 5\d,\d+ values, wanted at most 50,000"
        ) as caught:
            bodies.read(ChatRequest, raw_of(body), LIMITS)
        assert (caught.value.code, caught.value.param) == ("invalid_value", field)


def test_other_bodies_are_bounded_by_the_number_of_their_values(bodies: BodyProcess) -> None:
    for fields in (
        {"tokens": list(range(MAX_VALUES * 2))},
        {"tokens": []},
        {"prompt": "a"},
        {"tokens": [1, "a"]},
    ):
        raw = raw_of(fields)
        assert bodies.fields(raw) == json.loads(raw)
    for many in ({"tokens": [[1]] * MAX_VALUES}, {"tokens": [1], "x": [1] * MAX_VALUES}):
        with pytest.raises(ApiError, match=r"body: holds \d+,\d+ values, wanted at most 50,000"):
            bodies.fields(raw_of(many))


@pytest.mark.parametrize("add_bos", [None, True, False])
@pytest.mark.parametrize("begins", [True, False])
def test_a_text_is_encoded_there_as_here(bodies: BodyProcess, begins: bool, add_bos: bool | None) -> None:
    """Special tokens in it are text, and it begins as the model's settings say."""
    trained = train_bpe(["the rose is a rose"], 300, ("<s>", "</s>"))
    settings = FolderSettings(bos_token="<s>", eos_token="</s>", add_bos=begins)
    tokenizer = Tokenizer.from_json(trained.to_json(), settings)
    for text in ("", "</s>the <s> rose \x00 好🙂", "the rose\n" * 50_000):
        ids = tokenizer.encode(text, add_bos=add_bos)
        count, there = bodies.encode(tokenizer, text, add_bos)
        assert (count, json.loads(b"[%s]" % there)) == (len(ids), ids)


def test_a_new_process_gets_the_tokenizer_again(workers: Callable[[], list[int]]) -> None:
    bodies, tokenizer = BodyProcess(), train_bpe(["a rose"], 300, ("</s>",))
    for _ in range(2):
        assert bodies.encode(tokenizer, "ab", None)[0] == len(tokenizer.encode("ab"))
        os.kill(workers()[0], signal.SIGKILL)
    bodies.close()


def test_a_killed_process_is_replaced(workers: Callable[[], list[int]]) -> None:
    bodies, raw = BodyProcess(), raw_of({"prompt": "a"})
    bodies.read(CompletionRequest, raw, LIMITS)
    (first,) = workers()
    os.kill(first, signal.SIGKILL)
    assert bodies.read(CompletionRequest, raw, LIMITS).prompt == ("a",)
    (second,) = workers()
    assert second != first
    bodies.close()
    assert workers() == []


@pytest.mark.parametrize("end", ["kill once", "kill twice", "close"])
def test_a_body_that_is_read_while_the_process_ends_is_answered(
    workers: Callable[[], list[int]], end: str
) -> None:
    bodies, raw, outcome = BodyProcess(), raw_of({"prompt": "a"}), list[Any]()

    def read() -> None:
        try:
            outcome.append(bodies.read(CompletionRequest, raw, LIMITS))
        except ApiError as error:
            outcome.append(error)

    bodies.read(CompletionRequest, raw, LIMITS)
    (first,) = workers()
    os.kill(first, signal.SIGSTOP)  # it reads nothing and answers nothing
    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.1)
    assert not outcome
    if end == "close":
        bodies.close()
    else:
        os.kill(first, signal.SIGKILL)
    if end == "kill twice":
        until = time.monotonic() + 20
        while not (found := [pid for pid in workers() if pid != first]) and time.monotonic() < until:
            pass
        os.kill(found[0], signal.SIGKILL)
    thread.join(20)
    assert not thread.is_alive()
    if end == "kill once":
        assert outcome[0].prompt == ("a",)
    else:
        assert (outcome[0].status, outcome[0].code) == (503, "overloaded")
    bodies.close()
    assert workers() == []


def test_a_process_that_nobody_closes_ends_with_its_owner(workers: Callable[[], list[int]]) -> None:
    bodies = BodyProcess()
    bodies.fields(b"{}")
    assert len(workers()) == 1
    del bodies
    assert workers() == []
