"""The bodies of the OpenAI protocol: which fields are honoured, which have no effect, which are refused.

In: a JSON object from `body`.  Out: frozen models, taken by `prompts`. Every known field that is not
honoured is refused by name (`refused`), and so is an unknown one. The fields and their docstrings are the
list that the documentation shows.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)

from tuition.core.errors import RequestError, UnsupportedField
from tuition.serve.errors import ApiError
from tuition.serve.messages import read_messages
from tuition.serve.refused import CHAT, COMPLETION, HARMLESS, INSTEAD, OPENAI, OTHERS, Refused

MAX_STOPS = 4
MAX_LOGPROBS = 20
MAX_BIASES = 1_024
MAX_STOP_CHARACTERS = 1_024
MAX_STOP_IDS = 1_024

Prompt = str | tuple[int, ...]
Body = TypeVar("Body", bound=BaseModel)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_stops(value: Any) -> Any:
    return _as_tuple([value] if isinstance(value, str) else value)


def _as_prompts(value: Any) -> Any:
    """Every accepted form of `prompt` as a tuple of prompts."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return (tuple(value),)
        if all(isinstance(item, str) for item in value):
            return tuple(value)
        if all(isinstance(item, list) and item and all(type(i) is int for i in item) for item in value):
            return tuple(tuple(item) for item in value)
    raise ValueError("wanted a string, a list of strings, token ids, or a list of lists of token ids")


Stops = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)], ...],
    BeforeValidator(_as_stops),
    Field(max_length=MAX_STOPS),
]
StopIds = Annotated[tuple[int, ...], BeforeValidator(_as_tuple), Field(max_length=MAX_STOP_IDS)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
TokenCount = Annotated[int, Field(ge=1, lt=2**31)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="allow", use_attribute_docstrings=True)


class StreamOptions(_Strict):
    """What a stream carries besides text."""

    include_usage: bool = False
    """One more chunk before the end, with no choices and the usage of the whole call."""
    continuous_usage_stats: bool = False
    """Usage so far in every chunk."""
    include_obfuscation: bool | None = None
    """Only accepted false: chunks are not padded to hide their length."""

    @model_validator(mode="after")
    def _nothing_is_padded(self) -> Self:
        if self.include_obfuscation:
            raise UnsupportedField("stream_options.include_obfuscation")
        return self


class Common(_Strict):
    """Fields that both generating endpoints share."""

    model: str = Field(max_length=256)
    """Name from /v1/models."""
    temperature: float | None = Field(None, ge=0, le=2)
    """0 takes the most likely token; if absent, the model's default or 1."""
    top_p: float | None = Field(None, ge=0, le=1)
    """Keep the smallest set of tokens with this much probability, at least one; if absent, the model's
    default or 1."""
    n: int | None = Field(None, ge=1)
    """Replies for each prompt; reply i of a seeded call draws with seed + i."""
    stop: Stops | None = None
    """Up to 4 texts that end the reply and are not part of it."""
    seed: Seed | None = None
    """Equal seeds give equal replies on the same machine."""
    stream: bool | None = None
    """Server-sent events instead of one reply."""
    stream_options: StreamOptions | None = None
    """include_usage, continuous_usage_stats; include_obfuscation only false; only with stream."""
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    """Subtracted once from tokens already in the reply."""
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    """Subtracted for each time a token is in the reply."""
    logit_bias: dict[str, Bias] | None = Field(None, max_length=MAX_BIASES)
    """Token id to what is added to its logit, -100 to 100."""
    top_k: int | None = Field(None, ge=-1, le=1 << 20)
    """Ours: keep this many most likely tokens; 0 or -1 keeps all; if absent, the model's default or all."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Ours: drop tokens less likely than this share of the most likely one; if absent, the model's default or
    0."""
    repetition_penalty: float | None = Field(None, ge=0.01, le=10)
    """Ours: divides positive and multiplies negative logits of tokens in prompt or reply; if absent, the
    model's default or 1."""
    stop_token_ids: StopIds | None = None
    """Ours: token ids that end the reply, beside the model's own; not part of its text."""
    min_tokens: int | None = Field(None, ge=0, lt=2**31)
    """Ours: no end token before the reply has this many tokens; not together with stop."""
    ignore_eos: bool | None = None
    """Ours: go on past the end of turn; for load tests."""
    user: str | None = None
    """Accepted, has no effect; it is not stored."""
    metadata: dict[str, Any] | None = None
    """Accepted, has no effect; it is not stored."""
    store: bool | None = None
    """Accepted, has no effect: nothing is ever stored."""
    service_tier: str | None = None
    """Accepted, has no effect: there is one tier."""
    prediction: dict[str, Any] | None = None
    """Accepted, has no effect on the reply."""
    safety_identifier: str | None = None
    """Accepted, has no effect; it is not stored."""

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options", "is only allowed with stream: true")
        if self.min_tokens and self.stop:
            raise RequestError("min_tokens", "is not supported together with stop; use stop_token_ids")
        return self


class ChatRequest(Common):
    """POST /v1/chat/completions."""

    messages: Annotated[tuple[dict[str, Any], ...], PlainValidator(read_messages)]
    """The conversation; roles as the model's template allows, content as a string or text parts."""
    max_tokens: TokenCount | None = None
    """Most tokens to generate; if absent, the server's or the model's default, or to the context's end."""
    max_completion_tokens: TokenCount | None = None
    """The same under its newer name."""
    logprobs: bool | None = None
    """Report how likely each token was."""
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    """With logprobs: the most likely tokens at each place, 0 to 20."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Ours: variables for the model's chat template."""
    add_generation_prompt: bool = True
    """Ours: end the prompt with what begins a reply; false with continue_final_message."""
    continue_final_message: bool = False
    """Ours: the reply continues the last message, which has no end of turn; add_generation_prompt: false."""
    reasoning_effort: str | None = None
    """Handed to the model's chat template, which may use it."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs", "is only allowed with logprobs: true")
        if self.continue_final_message and self.add_generation_prompt:
            raise RequestError("continue_final_message", "needs add_generation_prompt: false")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise RequestError("max_tokens", "differs from max_completion_tokens; send one of them")
        return self

    @property
    def token_limit(self) -> int | None:
        """Most tokens to generate, under either name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionRequest(Common):
    """POST /v1/completions."""

    prompt: Annotated[tuple[Prompt, ...], PlainValidator(_as_prompts)]
    """A text, a list of texts, token ids, or a list of lists of token ids."""
    max_tokens: int | None = Field(None, ge=0, lt=2**31)
    """Most tokens to generate; 16 if absent; 0 is allowed with echo and only scores the prompt."""
    max_completion_tokens: int | None = None
    """Only accepted when it equals max_tokens."""
    echo: bool | None = None
    """Begin the reply with the prompt (and its log-probabilities)."""
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    """Report each token's log-probability and the most likely ones, 0 to 20."""
    best_of: int | None = Field(None, ge=1)
    """Only accepted when it equals n: no replies are generated and thrown away."""
    suffix: str | None = None
    """Only accepted empty."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise RequestError("max_tokens", "0 is only allowed with echo: true")
        if self.max_completion_tokens not in (None, self.max_tokens):
            raise UnsupportedField("max_completion_tokens")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise UnsupportedField("best_of")
        if self.suffix:
            raise UnsupportedField("suffix")
        return self


REFUSED: dict[type[BaseModel], Refused] = {
    ChatRequest: OPENAI | OTHERS | CHAT,
    CompletionRequest: OPENAI | OTHERS | COMPLETION,
}


# pydantic speaks of Python to those who know JSON.
_IN_JSON = (
    (re.compile("^Value error, "), ""),
    (re.compile("valid dictionary( or instance of [A-Za-z]+)?"), "JSON object"),
    (re.compile("valid tuple"), "valid list"),
)


def read_request(kind: type[Body], body: Mapping[str, Any]) -> Body:
    """`body` as a `kind`. Raises: RequestError, UnsupportedField with the field as the caller wrote it, and
    ApiError for a field that nobody knows: a misspelt one would change nothing, unnoticed."""
    try:
        request = kind.model_validate(body)
    except ValidationError as error:
        raise _as_request_error(body, error) from None
    for name, harmless in REFUSED.get(kind, {}).items():
        if body.get(name) is not None and body[name] not in harmless:
            raise UnsupportedField(name, INSTEAD.get(name))
    known = kind.model_fields.keys() | REFUSED.get(kind, {}).keys() | HARMLESS
    for name in body:
        if name not in known:
            close = get_close_matches(name, kind.model_fields, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "leave it out"
            shown = name.encode("utf-8", "replace").decode()[:128]
            raise ApiError(400, f"unknown field {shown!r}; {hint}", code="unknown_parameter", param=shown)
    return request


def _as_request_error(body: Mapping[str, Any], error: ValidationError) -> RequestError:
    """The problem that was found deepest in the body: in a union, that is the branch that was meant."""
    deepest: list[int | str] = []
    problems: list[str] = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        steps = _follow(body, item["loc"], is_missing=item["type"] == "missing")
        if len(steps) > len(deepest) or not problems:
            deepest, problems = steps, []
        if steps == deepest:
            problems.append(item["msg"])
    problem = " or ".join(dict.fromkeys(problems))
    for term, name in _IN_JSON:
        problem = term.sub(name, problem)
    return RequestError(_join(deepest), problem)


def _follow(body: Any, location: tuple[int | str, ...], is_missing: bool) -> list[int | str]:
    """The part of pydantic's location that names places in the body, without its names of union branches."""
    steps: list[int | str] = []
    for index, step in enumerate(location):
        present = (isinstance(body, Mapping) and step in body) or (
            isinstance(body, list) and isinstance(step, int) and step < len(body)
        )
        if present:
            body = body[step]
            steps.append(step)
        elif is_missing and index == len(location) - 1:
            steps.append(step)
    return steps


def _join(steps: list[int | str]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
    return text.encode("utf-8", "replace").decode()[:128] or "body"


@dataclass(frozen=True)
class FieldHelp:
    """One row of the documentation."""

    name: str
    meaning: str
    support: Literal["honoured", "no effect", "refused"]


def list_fields(kind: type[Common]) -> list[FieldHelp]:
    """Every known field of an endpoint and what becomes of it, for the documentation."""
    rows = []
    for name, field in kind.model_fields.items():
        meaning = (field.description or "").strip()
        rows.append(FieldHelp(name, meaning, "no effect" if "no effect" in meaning else "honoured"))
    refused = [FieldHelp(name, "400 unsupported_parameter", "refused") for name in REFUSED[kind]]
    return rows + refused
