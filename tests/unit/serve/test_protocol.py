"""The bodies: honoured, accepted without effect, or refused by the name the caller wrote."""

import time
from collections.abc import Callable
from typing import Any

import openai.types.chat.chat_completion_stream_options_param as stream_params
import openai.types.chat.completion_create_params as chat_params
import openai.types.completion_create_params as completion_params
import pytest

from tuition.core.errors import RequestError, UnsupportedField
from tuition.serve.errors import ApiError
from tuition.serve.protocol import (
    REFUSED,
    ChatRequest,
    CompletionRequest,
    StreamOptions,
    list_fields,
    read_request,
)
from tuition.serve.refused import HARMLESS

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "m", "prompt": "hi"}


def chat(**fields: Any) -> ChatRequest:
    return read_request(ChatRequest, {**CHAT, **fields})


def text(**fields: Any) -> CompletionRequest:
    return read_request(CompletionRequest, {**TEXT, **fields})


def test_every_field_that_openai_knows_is_honoured_or_refused() -> None:
    """A field that the client library gains shows up here, not in silence."""
    for kind, params in ((ChatRequest, chat_params), (CompletionRequest, completion_params)):
        known = {"stream"} | set(params.CompletionCreateParamsBase.__annotations__)
        assert known <= {row.name for row in list_fields(kind)}


def test_every_stream_option_that_openai_knows_is_known_here() -> None:
    options = stream_params.ChatCompletionStreamOptionsParam.__annotations__
    assert options.keys() <= StreamOptions.model_fields.keys()


REFUSALS = [(kind, name) for kind in (ChatRequest, CompletionRequest) for name in sorted(REFUSED[kind])]


@pytest.mark.parametrize(("kind", "name"), REFUSALS)
def test_a_known_field_that_is_not_supported_is_refused_by_name(
    kind: type[ChatRequest | CompletionRequest], name: str
) -> None:
    with pytest.raises(UnsupportedField) as caught:
        read_request(kind, {**(CHAT if kind is ChatRequest else TEXT), name: {"type": "json_object"}})
    assert caught.value.field == name


def test_what_one_endpoint_honours_the_other_does_not_ignore() -> None:
    chat_knows, text_knows = (
        {row.name for row in list_fields(kind)} for kind in (ChatRequest, CompletionRequest)
    )
    assert chat_knows == text_knows


@pytest.mark.parametrize("asked", [chat, text])
def test_a_stream_option_that_is_not_supported_is_refused_by_name(asked: Callable[..., Any]) -> None:
    with pytest.raises(UnsupportedField) as caught:
        asked(stream=True, stream_options={"include_usage": True, "include_obfuscation": True})
    assert caught.value.field == "stream_options.include_obfuscation"
    for harmless in (False, None):
        asked(stream=True, stream_options={"include_obfuscation": harmless, "nobody_knows": 1})


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tools": None},
        {"tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"stop": None},
        {"stop": []},
        {"temperature": 1},
        {"seed": -5},
        {"top_k": -1},
        {"max_tokens": 5, "max_completion_tokens": 5},
        {"user": "u", "store": True, "metadata": {"a": "b"}},
        {"ignore_eos": True, "min_p": 0.1, "repetition_penalty": 1.1},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"logprobs": True, "top_logprobs": 0},
        {
            "prediction": {"type": "content", "content": "x"},
            "service_tier": "auto",
            "reasoning_effort": "low",
        },
    ],
    ids=str,
)
def test_harmless_fields_pass(fields: dict[str, Any]) -> None:
    assert chat(**fields).model == "m"


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": 3}, "stop"),
        ({"stop_token_ids": 3}, "stop_token_ids"),
        ({"stop_token_ids": [3, "4"]}, "stop_token_ids[1]"),
        ({"seed": 2**63}, "seed"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {"1": None}}, "logit_bias.1"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [3]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": 3}]}]},
            "messages[0].content[1].type",
        ),
        ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a", "name": 3}]}, "messages[0].name"),
        ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0].audio"),
        ({"logit_bias": {"1": {}}}, "logit_bias.1"),
        ({"stream_options": {"include_usage": {}}, "stream": True}, "stream_options.include_usage"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 3, "stop": "a"}, "min_tokens"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"guided_json": {}}, "guided_json"),
        ({"model": None}, "model"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_value_is_named_where_it_stands(fields: dict[str, Any], place: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat(**fields)
    assert caught.value.field == place


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"stop": 3}, "a valid list"),
        ({"metadata": []}, "a JSON object"),
        ({"messages": [3]}, "a JSON object"),
        ({"stream_options": 1}, "a JSON object"),
    ],
    ids=str,
)
def test_an_error_speaks_of_json_and_not_of_python(fields: dict[str, Any], wanted: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat(**fields)
    assert str(caught.value).endswith(wanted)


def test_a_body_of_many_faults_is_refused_at_the_first() -> None:
    """Listing each of them would hold the server for seconds."""
    begin = time.thread_time()
    with pytest.raises(RequestError) as caught:
        chat(messages=[{"role": "user", "content": [{"type": 1}] * 300_000}])
    assert caught.value.field == "messages[0].content[0].type"
    assert time.thread_time() - begin < 0.2  # a walk through all of them takes over a second


def test_a_missing_field_is_named() -> None:
    with pytest.raises(RequestError) as caught:
        read_request(ChatRequest, {"model": "m"})
    assert caught.value.field == "messages"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ("a",)), (["a", "b"], ("a", "b")), ([1, 2], ((1, 2),)), ([[1], [2, 3]], ((1,), (2, 3)))],
)
def test_a_prompt_may_come_in_four_forms(prompt: Any, prompts: tuple[Any, ...]) -> None:
    assert text(prompt=prompt).prompt == prompts


@pytest.mark.parametrize("prompt", [[], [[]], [True], [1, "a"], [[1], "a"], 3, None, {"a": 1}, [1.0]])
def test_other_forms_of_a_prompt_are_refused(prompt: Any) -> None:
    with pytest.raises(RequestError) as caught:
        text(prompt=prompt)
    assert caught.value.field == "prompt"


def test_completion_fields_that_ask_for_more_than_is_done_are_refused() -> None:
    for fields in ({"best_of": 2}, {"suffix": "x"}, {"max_tokens": 4, "max_completion_tokens": 5}):
        with pytest.raises(UnsupportedField):
            text(**fields)
    with pytest.raises(RequestError, match="echo"):
        text(max_tokens=0)
    assert (
        text(max_tokens=4, max_completion_tokens=4, tools=[], response_format={"type": "text"}).max_tokens
        == 4
    )
    assert text(max_tokens=0, echo=True, best_of=1, suffix="").max_tokens == 0


def test_bodies_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        chat().temperature = 0.0  # type: ignore[misc]


def test_the_documentation_lists_every_field_with_a_meaning() -> None:
    for kind in (ChatRequest, CompletionRequest):
        assert all(row.meaning for row in list_fields(kind))


def test_an_assistant_may_have_said_nothing_but_a_refusal() -> None:
    said = [
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "tool_calls": [{}]},
    ]
    said.append({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]})
    said.append({"role": "assistant", "content": "Yes.", "refusal": None})
    assert [message["content"] for message in chat(messages=said).messages] == ["No.", "", "No.", "Yes."]


@pytest.mark.parametrize(
    ("theirs", "ours"), [("n_predict", "max_tokens"), ("repeat_penalty", "repetition_penalty")]
)
def test_a_field_under_another_servers_name_is_told_ours(theirs: str, ours: str) -> None:
    with pytest.raises(UnsupportedField, match=f"use {ours}"):
        chat(**{theirs: 3})


def test_a_message_is_continued_or_answered_never_both() -> None:
    assert chat(continue_final_message=True, add_generation_prompt=False).continue_final_message
    with pytest.raises(RequestError, match="add_generation_prompt"):
        chat(continue_final_message=True)


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest])
def test_a_field_that_nobody_knows_is_refused_by_name(kind: type) -> None:
    """A misspelt field would otherwise change nothing, unnoticed."""
    least = {"model": "m", "messages": [{"role": "user", "content": "a"}]} if kind is ChatRequest else {}
    body = least or {"model": "m", "prompt": "a"}
    read_request(kind, body | dict.fromkeys(HARMLESS, 1))
    with pytest.raises(ApiError, match="unknown field 'temprature'; did you mean 'temperature'") as refused:
        read_request(kind, body | {"temprature": 0.5})
    assert (refused.value.status, refused.value.code, refused.value.param) == (
        400, "unknown_parameter", "temprature",
    )  # fmt: skip
