"""Chat templates: a conversation as the text a model was trained on, with resource limits, and with turns
that message text cannot forge.

In: messages, as a request brings them.  Out: text, or `Span`s that say which parts are the template's own
tokens. A template is a program that came with a model. It runs in a separate process
(`template_worker`) under fuel, processor time and memory limits, so a hostile one is refused and the server
goes on.
"""

import json
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tuition.core.errors import ModelError, RequestError
from tuition.core.words import value_in_words
from tuition.tokenizer.marks import Marks, secret_text
from tuition.tokenizer.template_process import TemplateLimits, TemplateProcess

ROLES = ("system", "developer", "user", "assistant", "tool")

REPLY_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Added tokens that models write into their replies as text, and that come back in an assistant's message."""

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names under which a message brings its thinking. Templates read the first; gpt-oss's the second."""

Beginning = tuple[int, bool]
"""The first messages of a conversation, by their number, and whether the prompt for a reply comes after."""

_AT_ONCE = 32
"""Beginnings of a conversation in one exchange with the worker."""

_PROBE = "x"
"""A message that holds no token of any model."""


@dataclass(frozen=True)
class Span:
    """A part of a rendered conversation: an added token that the template wrote, or plain text."""

    text: str
    is_token: bool


class ChatTemplate:
    """A model's chat template.

    Raises, when it is used: ModelError if the template cannot be compiled, RequestError if the template
    refuses the messages or goes over a limit.
    """

    def __init__(
        self,
        source: str,
        bos_token: str | None = None,
        eos_token: str | None = None,
        *,
        origin: Path | str = "chat template",
        limits: TemplateLimits | None = None,
    ) -> None:
        self.source, self.bos_token, self.eos_token = source, bos_token, eos_token
        self.origin, self.limits = origin, limits or TemplateLimits()
        self._lock = threading.Lock()
        self._worker: TemplateProcess | None = None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as text. What users wrote is in it as it is: encode it through `guarded`."""
        checked, extra = check_messages(messages), template_kwargs or {}
        return self.render_beginnings(checked, [(len(checked), add_generation_prompt)], extra)[0]

    def guarded(
        self,
        messages: Sequence[Mapping[str, Any]],
        tokens: Sequence[str],
        *,
        reply_tokens: Collection[str] = (),
        template_kwargs: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> "GuardedChat":
        """A conversation whose beginnings can be rendered and cut at those of `tokens` that the template
        itself wrote.

        A secret mark breaks the text of every token inside a message before the template sees it. It also
        breaks a beginning or an end of a token at the edge of a message, which the template might complete.
        The marks are removed after the cut. Messages of the assistant may also write `reply_tokens`. `now`:
        the time that the template may write.
        """
        marks = Marks(tokens), Marks([token for token in tokens if token not in reply_tokens])
        checked = check_messages(messages)
        for message in checked:
            if message["role"] == "developer" and "developer" not in self.source:
                message["role"] = "system"
        return GuardedChat(self, checked, marks, template_kwargs or {}, now)

    def tokens_written(self, candidates: Collection[str]) -> frozenset[str]:
        """Those of `candidates` that the template writes by itself: markup that it names, or what stands
        around a short message of some role."""
        named = {token for token in candidates if token in self.source and _is_markup(token)}
        others = [token for token in candidates if token not in named and token.strip() and token != _PROBE]
        if others:
            text = "".join(map(self._around, ROLES))
            named |= {token for token in others if token in text}
        return frozenset(token for token in named if token.strip())

    def _around(self, role: str) -> str:
        """What the template writes around one message of `role`, or nothing if it refuses it."""
        talk = [{"role": "user", "content": _PROBE}, {"role": role, "content": _PROBE}]
        for messages in (talk[1:], talk):
            try:
                return self.render_beginnings(messages, [(len(messages), True)], {})[0]
            except (RequestError, ModelError):
                continue
        return ""

    def render_beginnings(
        self,
        checked: Sequence[Mapping[str, Any]],
        beginnings: Sequence[Beginning],
        extra: Mapping[str, Any],
        now: datetime | None = None,
    ) -> list[str]:
        """Several beginnings of a conversation, each as `render` gives it, in one exchange with the worker.
        The messages are as `check_messages` has returned them."""
        variables = {
            "bos_token": self.bos_token or "",
            "eos_token": self.eos_token or "",
            "tools": None,
            "documents": None,
            **extra,
            "messages": checked,
        }
        size = sum(len(str(value).encode("utf-8", "surrogatepass")) for value in variables.values())
        job = {
            "variables": variables,
            "beginnings": beginnings,
            "now": now and now.timestamp(),
            "fuel": self.limits.fuel + self.limits.fuel_per_message * len(checked),
            "max_bytes": self.limits.max_bytes + 2 * size,
        }
        with self._lock:
            reply = self._ask(job)
            if reply.get("error") == "failed" and any(message.get("tool_calls") for message in checked):
                # Some templates join the arguments of a call to other text, as DeepSeek's do.
                as_text = variables | {"messages": [_with_text_arguments(message) for message in checked]}
                again = self._ask(job | {"variables": as_text})
                reply = again if "texts" in again else reply
        if "texts" in reply:
            return reply["texts"]
        raise self._error(reply)

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        if self._worker is None or not self._worker.usable:
            self._worker = TemplateProcess(self.limits)
            reply = self._worker.ask({"source": self.source})
            if "error" in reply:
                self._worker.close()
                self._worker = None
                return (
                    reply
                    if reply["error"] != "gone"
                    else {"error": "syntax", "message": "compiling it takes too much time or memory"}
                )
        try:
            return self._worker.ask(job)
        finally:
            if not self._worker.usable:
                self._worker.close()
                self._worker = None

    def _error(self, reply: dict[str, Any]) -> Exception:
        kind, message = reply["error"], re.sub("[\U000f0000-\U000ffffd]", "", reply.get("message", ""))
        if kind == "syntax":
            message = next(iter(message.splitlines()), "")  # what follows draws the place over many lines
            return ModelError(
                self.origin,
                f"the chat template is broken: {message}",
                way_out="use plain completions instead",
            )
        if kind == "raised":
            return RequestError("messages", f"refused by the model's chat template: {message}")
        if kind == "failed":
            return RequestError("messages", f"the model's chat template cannot show them: {message}")
        limit = {
            "fuel": "runs too many instructions",
            "output": f"writes too much: {message}",
            "memory": "uses too much memory",
            "gone": "uses too much time or memory",
        }[kind]
        return RequestError("messages", f"the model's chat template {limit}; send fewer or shorter messages")


class GuardedChat:
    """A conversation whose messages cannot write a template's tokens."""

    def __init__(
        self,
        template: ChatTemplate,
        checked: Sequence[Mapping[str, Any]],
        marks: tuple[Marks, Marks],
        template_kwargs: Mapping[str, Any],
        now: datetime | None,
    ) -> None:
        self.messages, self.origin = checked, template.origin
        self._template, self._now = template, now
        self._marks, self._reply_marks = marks
        self._marked = [
            {**(self._reply_marks if message["role"] == "assistant" else self._marks).in_value(message),
             "role": message["role"]}
            for message in checked
        ]  # fmt: skip
        self._kwargs = self._marks.in_value(dict(template_kwargs))

    def spans(self, beginnings: Sequence[Beginning]) -> list[list[Span]]:
        """Beginnings of the conversation, each rendered and cut at the template's own tokens.
        Raises: RequestError."""
        spans = []
        for first in range(0, len(beginnings), _AT_ONCE):
            some = beginnings[first : first + _AT_ONCE]
            texts = self._template.render_beginnings(self._marked, some, self._kwargs, self._now)
            spans += [self._cut(text) for text in texts]
        return spans

    def continued(self) -> list[Span]:
        """The conversation up to the end of the last message's text, which a reply will continue.

        A mark after the text says where it ends. Where the template has stripped the blank behind the mark,
        it would have stripped the text's own. Raises: RequestError.
        Source: transformers, utils/chat_template_utils.py, `continue_final_message`.
        """
        *before, last = self._marked
        said, mark = last["content"], secret_text()
        if said is None:
            raise RequestError("continue_final_message", "the last message has no content to continue")
        messages = [*before, {**last, "content": f"{said}{mark} "}]
        whole = [(len(messages), False)]
        (text,) = self._template.render_beginnings(messages, whole, self._kwargs, self._now)
        head, found, rest = text.rpartition(mark)
        head = head if rest.startswith(" ") else head.rstrip()
        if not found or said.strip() not in head:
            raise RequestError(
                "continue_final_message", "the model's chat template does not show the last message as it is"
            )
        return self._cut(head)

    def cut_reply(self, text: str) -> list[Span]:
        """A text that the assistant says, cut at the tokens that it may write."""
        return self._cut(self._reply_marks.in_text(text))

    def _cut(self, text: str) -> list[Span]:
        spans, end = [], 0
        for match in self._marks.matches(text):
            spans += [Span(self._restored(text[end : match.start()]), False), Span(match[0], True)]
            end = match.end()
        spans.append(Span(self._restored(text[end:]), False))
        return [span for span in spans if span.text]

    def _restored(self, text: str) -> str:
        return self._marks.removed(self._reply_marks.removed(text))


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as plain dictionaries; lists of text parts are joined by newlines. Raises: RequestError."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes) or not messages:
        raise RequestError("messages", "must be a list with at least one message")
    return [_check_message(f"messages[{index}]", message) for index, message in enumerate(messages)]


def _check_message(field: str, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RequestError(field, "must be an object with a role and a content")
    role = message.get("role")
    if role not in ROLES:
        raise RequestError(f"{field}.role", f"got {str(role)[:60]!r}, wanted one of {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        content = "\n".join(
            _part_text(f"{field}.content[{index}]", part) for index, part in enumerate(content)
        )
    if content is None and not (role == "assistant" and message.get("tool_calls")):
        raise RequestError(f"{field}.content", "is missing; wanted a text")
    if not isinstance(content, str | None):
        raise RequestError(f"{field}.content", "must be a text or a list of text parts")
    checked = {**message, "role": role, "content": content}
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    if reasoning is not None:
        checked = {"thinking": reasoning, **checked, "reasoning_content": reasoning}
    if message.get("tool_calls"):
        checked["tool_calls"] = _check_calls(f"{field}.tool_calls", message["tool_calls"])
    _check_text(field, checked)
    return checked


def _check_calls(field: str, calls: Any) -> list[dict[str, Any]]:
    """Calls of tools, with their arguments as an object: templates write these as JSON."""
    checked = []
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise RequestError(field, "must be a list of calls")
    for index, call in enumerate(calls):
        place = f"{field}[{index}]"
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RequestError(place, "must be an object with a function that has a name")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError):
                raise RequestError(f"{place}.function.arguments", "is not valid JSON") from None
        checked.append({**call, "function": {**function, "arguments": arguments}})
    return checked


def _with_text_arguments(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"],
                                                                          ensure_ascii=False)}}
        for call in message.get("tool_calls") or ()
    ]  # fmt: skip
    return {**message, "tool_calls": calls} if calls else dict(message)


def _part_text(field: str, part: Any) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if not isinstance(part, Mapping) or part.get("type") is None:
        raise RequestError(field, f"wanted a part of type 'text', got {value_in_words(part)}")
    raise RequestError(field, f"parts of type {str(part['type'])[:60]!r} are not supported; only text is")


def _check_text(field: str, value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise RequestError(field, "holds half of a surrogate pair, which is not text") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(field, f"holds what JSON cannot say ({error})") from None


def _is_markup(token: str) -> bool:
    """Letters with signs, as in `<|user|>`: a word or a sign alone may stand in a template's code."""
    return any(map(str.isalpha, token)) and not token.isalnum()
