"""Chat templates: a conversation as the text a model was trained on, with resource limits, and with turns
that message text cannot forge.

In: messages, as a request brings them.  Out: text, or `Span`s that say which parts are the template's own
tokens. A template is a program that came with a model. It runs in a process of its own
(`template_worker`) under fuel, processor time and memory limits, so a hostile one is refused and the server
goes on.
"""

import json
import re
import secrets
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuition.core.errors import ModelError, RequestError
from tuition.tokenizer.template_process import TemplateLimits, TemplateProcess

ROLES = ("system", "developer", "user", "assistant", "tool")


REPLY_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Added tokens that models write into their replies as text, and that come back in an assistant's message."""

_STRETCH = 1 << 16
"""Characters that are searched at once."""

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
        """The conversation as text. What users wrote is in it as it is: encode it through `render_spans`."""
        return self._render(check_messages(messages), add_generation_prompt, template_kwargs or {})

    def render_spans(
        self,
        messages: Sequence[Mapping[str, Any]],
        tokens: Sequence[str],
        *,
        reply_tokens: Collection[str] = (),
        add_generation_prompt: bool = True,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[Span]:
        """The conversation cut at those of `tokens` which the template itself wrote.

        Every token's text inside of a message is broken by a secret mark before the template sees it; so is a
        beginning or an end of one at the edge of a message, which the template might complete. The marks
        are removed after the cut. Messages of the assistant may also write
        `reply_tokens`.
        """
        checked = check_messages(messages)
        if not tokens:
            return [Span(self._render(checked, add_generation_prompt, template_kwargs or {}), False)]
        breaker = _Breaker(tokens)
        replies = _Breaker([token for token in tokens if token not in reply_tokens])
        marked = [
            {**(replies if message["role"] == "assistant" else breaker).in_value(message),
             "role": message["role"]}
            for message in checked
        ]  # fmt: skip
        text = self._render(marked, add_generation_prompt, breaker.in_value(dict(template_kwargs or {})))
        spans, end = [], 0
        for match in breaker.matches(text):
            spans += [Span(text[end : match.start()], False), Span(match[0], True)]
            end = match.end()
        spans.append(Span(text[end:], False))
        plain = [span if span.is_token else Span(breaker.restore(replies.restore(span.text)), False)
                 for span in spans]  # fmt: skip
        return [span for span in plain if span.text]

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
                return self._render(messages, True, {})
            except (RequestError, ModelError):
                continue
        return ""

    def _render(
        self, messages: list[dict[str, Any]], add_generation_prompt: bool, extra: Mapping[str, Any]
    ) -> str:
        variables = {
            "bos_token": self.bos_token or "",
            "eos_token": self.eos_token or "",
            "tools": None,
            "documents": None,
            **extra,
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
        }
        size = sum(len(str(value).encode("utf-8", "surrogatepass")) for value in variables.values())
        job = {
            "variables": variables,
            "fuel": self.limits.fuel + self.limits.fuel_per_message * len(messages),
            "max_bytes": self.limits.max_bytes + 2 * size,
        }
        with self._lock:
            reply = self._ask(job)
        if "text" in reply:
            return str(reply["text"])
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
    _check_text(field, checked)
    return checked


def _part_text(field: str, part: Any) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise RequestError(field, f"parts of type {str(kind)[:60]!r} are not supported; only text is")


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


class _Breaker:
    """Inserts a mark into every token inside message text, and removes the marks again."""

    def __init__(self, tokens: Sequence[str]) -> None:
        longest_first = sorted({token for token in tokens if token}, key=len, reverse=True)
        self.whole = _alternatives(set(longest_first), "", "")
        starts = {token[:end] for token in longest_first for end in range(1, len(token))}
        self._ends = {token[begin:] for token in longest_first for begin in range(1, len(token))}
        self._at_end = _alternatives(starts, r"(", r")(?=\s*\Z)")
        self._longest = max(map(len, longest_first), default=0)
        self._mark = _secret_text()
        self._instead_of = {token: _secret_text() for token in longest_first if len(token) == 1}

    def in_text(self, text: str) -> str:
        pieces, end = [], 0
        for match in self.matches(text):
            pieces += [text[end : match.start()], self._instead_of.get(match[0]) or self._mark.join(match[0])]
            end = match.end()
        text = "".join([*pieces, text[end:]])
        # Only the edges, since a search for them elsewhere would look at each place of a long text.
        tail = max(0, len(text.rstrip()) - self._longest)
        text = text[:tail] + self._at_end.sub(lambda match: match[1] + self._mark, text[tail:])
        blank = len(text) - len(text.lstrip())
        start = max((text.rfind(end, 0, blank + len(end)) for end in self._ends), default=-1)
        return text if start < 0 else text[:start] + self._mark + text[start:]

    def matches(self, text: str) -> Iterator[re.Match[str]]:
        """Every token in `text`. Searched in stretches: one search over all of a long text would keep every
        other thread waiting."""
        begin = 0
        while begin < len(text):
            end = begin + _STRETCH
            found = self.whole.search(text, begin, end + self._longest)
            if found is not None and found.start() < end:
                yield found
                end = found.end()
            begin = end

    def in_value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.in_text(value)
        if isinstance(value, Mapping):
            return {
                self.in_text(key) if isinstance(key, str) else key: self.in_value(item)
                for key, item in value.items()
            }
        return [self.in_value(item) for item in value] if isinstance(value, list | tuple) else value

    def restore(self, text: str) -> str:
        for token, secret in self._instead_of.items():
            text = text.replace(secret, token)
        return text.replace(self._mark, "")


def _secret_text() -> str:
    """Random private-use characters, which neither a user nor a template can know."""
    return "".join(chr(0xF0000 + secrets.randbelow(0xFFFE)) for _ in range(6))


def _alternatives(texts: set[str], before: str, after: str) -> re.Pattern[str]:
    if not texts:
        return re.compile(r"(?!)")
    return re.compile(before + "|".join(map(re.escape, sorted(texts, key=len, reverse=True))) + after)
