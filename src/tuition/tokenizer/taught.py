"""Which tokens of a conversation are taught: what the assistant says, with the token that ends its turn.

In: messages and the model's own chat template.  Out: `Taught` sequences of ids with a mask.

A reply is taught as a server would see it: the ids of the prompt that the template makes of the messages
before it, then the ids of what the model has to generate. So the prompt is encoded by itself, and the reply
is what the template adds to it; both come from rendering beginnings of the conversation, never from a search
for text. Where a template does not add to its own prompt, the reply is refused, with the place.
`{% generation %}` blocks of a template are not used: they say what its author taught, not what is generated.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from typing import Any

import numpy as np

from tuition.core.errors import ModelError, RequestError
from tuition.tokenizer.chat import REPLY_TOKENS, GuardedChat, Span
from tuition.tokenizer.tokenizer import Tokenizer

_THINKING = re.compile("|".join(map(re.escape, REPLY_TOKENS)))
_OPENED, _CLOSED = "<think>", "</think>"
_SHOWN = 40
"""Characters of a text in a message."""


@dataclass(frozen=True, eq=False)
class Taught:
    """Ids of one sequence, and which of them are taught."""

    ids: np.ndarray
    """(n,) int32"""
    taught: np.ndarray
    """(n,) bool: the assistant says this token."""
    turns: np.ndarray
    """(turns,) int32, ascending: where each taught turn ends. A sequence may be cut there."""


class _NotExactError(Exception):
    """The template does not let a reply be taught as it would be generated; where and why."""

    def __init__(self, index: int, why: str) -> None:
        self.index, self.why = index, why
        super().__init__(why)


@dataclass(frozen=True)
class _Turn:
    prompt: list[int]
    reply: list[int]


def taught_conversation(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    now: datetime | None = None,
    longest: int | None = None,
) -> tuple[Taught, ...]:
    """Sequences in which every reply of a conversation is taught once.

    One sequence, unless the template shows an earlier reply otherwise than it was generated, as those do
    that leave out earlier thinking: then each such reply has its own sequence. Messages after the last
    reply are left out. A first message of the assistant answers nothing and is not taught; nor is a reply
    whose `weight` is 0, as in OpenAI's files. Later replies see both.
    `now`: the time that the template may write. `longest`: tokens of a sequence that fit. Of text that is far
    longer, only a beginning is encoded, which does not fit either, and no token of it is taught.
    Raises: ModelError if the template cannot be masked exactly, RequestError if it refuses the messages or
    does not show a part of what the assistant says.
    """
    variables = {**(template_kwargs or {}), **({"tools": list(tools)} if tools else {})}
    weights = [message.get("weight", 1) for message in messages]
    shown = [{name: value for name, value in each.items() if name != "weight"} for each in messages]
    chat = tokenizer.guarded_chat(shown, variables, now or datetime.now())
    replies = [place for place, message in enumerate(chat.messages)
               if place and message["role"] == "assistant" and weights[place] != 0]  # fmt: skip
    if not replies:
        raise RequestError("messages", "holds no reply that is taught, after a message that it answers")
    try:
        return _sequences(_turns(tokenizer, chat, replies, tools or (), _most_text(tokenizer, longest)))
    except _NotExactError as error:
        if (fault := _template_fault(tokenizer, variables)) is not None:
            raise ModelError(
                chat.origin, fault.why, way_out="correct the template, or teach pairs of plain text"
            ) from None
        raise RequestError(f"messages[{error.index}]", error.why) from None


def taught_pair(tokenizer: Tokenizer, prompt: str, completion: str, longest: int | None = None) -> Taught:
    """Plain text that continues plain text; the completion and the end of the text are taught.

    The two are encoded apart, as they are where the prompt is given and the completion generated. `longest`:
    as in `taught_conversation`. Raises: RequestError for text that is not valid Unicode, ModelError if the
    tokenizer has no token that ends a text.
    """
    if not tokenizer.eos_ids:
        raise ModelError(
            "tokenizer", "names no token that ends a text",
            way_out="name one as eos_token in tokenizer_config.json",
        )  # fmt: skip
    most = _most_text(tokenizer, longest)
    if (beginning := _beginning([Span(prompt + completion, False)], most)) is not None:
        return _taught(_Turn(tokenizer.encode(beginning[0].text), []))
    before = tokenizer.encode(prompt)
    return _taught(_Turn(before, [*tokenizer.encode_continuation(completion), tokenizer.eos_ids[0]]))


def _template_fault(tokenizer: Tokenizer, template_kwargs: Mapping[str, Any]) -> _NotExactError | None:
    """Why not even the plainest conversation can be taught, if it cannot."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        _turns(tokenizer, tokenizer.guarded_chat(messages, template_kwargs), [1], ())
    except _NotExactError as fault:
        return fault
    return None


def _turns(
    tokenizer: Tokenizer,
    chat: GuardedChat,
    replies: Sequence[int],
    tools: Sequence[Mapping[str, Any]],
    most: int | None = None,
) -> list[_Turn]:
    rendered = chat.spans([place for index in replies for place in ((index, True), (index + 1, False))])
    prompts, wholes = rendered[::2], rendered[1::2]
    _check_tools(tools, _text(prompts[-1]))
    return [_turn(tokenizer, chat, *turn, most) for turn in zip(replies, prompts, wholes, strict=True)]


def _turn(
    tokenizer: Tokenizer,
    chat: GuardedChat,
    index: int,
    prompt: list[Span],
    whole: list[Span],
    most: int | None,
) -> _Turn:
    """The reply in message `index`, and its prompt; a beginning of them if they are longer than `most`."""
    rest = _after(prompt, whole)
    if rest is None and chat.messages[index - 1]["role"] != "assistant":
        rest = _after_same_header(tokenizer, prompt, whole)
    reply = None if rest is None else _to_end(tokenizer, prompt, rest, index)
    if (reply is None or _CLOSED not in _text(reply)) and _CLOSED in (chat.messages[index]["content"] or ""):
        reply = _with_thinking(tokenizer, chat, index, prompt, whole)
    if reply is None:
        raise _NotExactError(index, _difference(prompt, whole))
    _check_shown(chat.messages[index], _text(reply), f"messages[{index}]")
    if (beginning := _beginning([*prompt, *reply], most)) is not None:
        return _Turn(tokenizer.encode_spans(beginning), [])
    return _Turn(tokenizer.encode_spans(prompt), _reply_ids(tokenizer, prompt, reply))


def _most_text(tokenizer: Tokenizer, longest: int | None) -> int | None:
    """Characters that are more than `longest` tokens in any text; None: there is no such number."""
    widest = tokenizer.longest_token
    return None if longest is None or widest is None else (longest + 1) * widest


def _beginning(spans: list[Span], most: int | None) -> list[Span] | None:
    """The spans up to the character `most`; None where there are no more."""
    if most is None or sum(len(span.text) for span in spans if not span.is_token) <= most:
        return None
    kept: list[Span] = []
    for span in spans:
        kept.append(span if span.is_token else Span(span.text[:most], False))
        most -= 0 if span.is_token else len(span.text)
        if most <= 0:
            break
    return kept


def _with_thinking(
    tokenizer: Tokenizer, chat: GuardedChat, index: int, prompt: list[Span], whole: list[Span]
) -> list[Span] | None:
    """A reply whose thinking the template leaves out in every turn, as DeepSeek-R1's does, or opens in the
    prompt: what is generated is the message's own text. None where the template shows other text."""
    content = chat.messages[index]["content"]
    thinking, _, answer = content.rpartition(_CLOSED)
    header, is_opened = _without_opening(prompt)
    rest = _after(header, whole) or _after_same_header(tokenizer, header, whole)
    if rest is None:
        return None
    shown = _to_end(tokenizer, header, rest, index)
    if _text(shown[:-1]).strip() != answer.strip():
        return None
    if is_opened and thinking.lstrip().startswith(_OPENED):
        thinking = thinking.lstrip().removeprefix(_OPENED).lstrip("\n")
    if _text(shown[:-1]) != answer:
        answer = answer.rstrip()
    return [*chat.cut_reply(f"{thinking}{_CLOSED}{answer}"), shown[-1]]


def _without_opening(prompt: list[Span]) -> tuple[list[Span], bool]:
    """The prompt without a `<think>` at its end, and whether there was one."""
    text = _text(prompt)
    if not text.rstrip().endswith(_OPENED):
        return prompt, False
    kept = len(text.rstrip()) - len(_OPENED)
    header: list[Span] = []
    for span in prompt:
        if kept > 0:
            header.append(Span(span.text[:kept], span.is_token))
        kept -= len(span.text)
    return header, True


def _after(prompt: list[Span], whole: list[Span]) -> list[Span] | None:
    """What `whole` has after `prompt`; None if it does not begin so."""
    *body, last = prompt or [Span("", False)]
    if whole[: len(prompt)] == prompt:
        return whole[len(prompt) :]
    cut = whole[len(body)] if len(body) < len(whole) else Span("", True)
    if whole[: len(body)] != body or last.is_token or cut.is_token or not cut.text.startswith(last.text):
        return None
    return [Span(cut.text[len(last.text) :], False), *whole[len(prompt) :]]


def _after_same_header(tokenizer: Tokenizer, prompt: list[Span], whole: list[Span]) -> list[Span] | None:
    """What `whole` has after the last tokens of `prompt`, where only what comes before these differs, as in
    templates that show the system message in the last message of the user alone.

    No message can write these tokens, so in the last place where they stand before the end of a reply the
    reply begins.
    """
    place = max((i for i, span in enumerate(prompt) if span.is_token), default=None)
    if place is None:
        return None
    header = prompt[place:]
    for begin in reversed(range(len(whole))):
        rest = _after(header, whole[begin:])
        if rest is not None and any(_ends_reply(tokenizer, span) for span in rest):
            return rest
    return None


def _difference(prompt: list[Span], whole: list[Span]) -> str:
    wanted, got = _text(prompt), _text(whole)
    pairs = zip_longest(wanted, got)
    same = next((place for place, (one, other) in enumerate(pairs) if one != other), len(wanted))
    begin = max(0, same - _SHOWN // 2)
    _, is_opened = _without_opening(prompt)
    hint = f"; write the thinking into the reply, as {_OPENED}...{_CLOSED}" if is_opened else ""
    return (
        "the model's chat template does not write the reply after its own prompt, so it cannot be taught as "
        f"it would be generated: the prompt has {wanted[begin : begin + _SHOWN]!r} where the conversation "
        f"with the reply has {got[begin : begin + _SHOWN]!r}{hint}"
    )


def _to_end(tokenizer: Tokenizer, prompt: list[Span], rest: list[Span], index: int) -> list[Span]:
    """The reply up to the token that ends it. After it may come blanks, other tokens, or the prompt for a
    next reply."""
    end = next((place for place, span in enumerate(rest) if _ends_reply(tokenizer, span)), None)
    if end is None:
        raise _NotExactError(
            index,
            f"the model's chat template ends the reply with {_text(rest)[-_SHOWN:]!r}, and none of its "
            "tokens ends a reply, so a model would never stop",
        )
    behind = rest[end + 1 :]
    if any(span.text.strip() for span in behind if not span.is_token) and behind != prompt[-len(behind) :]:
        raise _NotExactError(
            index,
            f"the model's chat template writes {_text(behind)[:_SHOWN]!r} after {rest[end].text!r}, which "
            "ends a reply: it would never be generated",
        )
    return rest[: end + 1]


def _ends_reply(tokenizer: Tokenizer, span: Span) -> bool:
    return span.is_token and tokenizer.token_id(span.text) in tokenizer.eos_ids


def _text(spans: Sequence[Span]) -> str:
    return "".join(span.text for span in spans)


def _reply_ids(tokenizer: Tokenizer, prompt: list[Span], reply: list[Span]) -> list[int]:
    """Ids of a reply. Its first text goes on where the prompt's last one ended: the ids are those of both
    together wherever these begin with the prompt's, as a later prompt will have them."""
    last, first = prompt[-1] if prompt else Span("", True), reply[0]
    if last.is_token or first.is_token:
        return tokenizer.encode_spans(reply, after=bool(prompt))
    after = len(prompt) > 1
    before = tokenizer.encode_spans([last], after)
    both = tokenizer.encode_spans([Span(last.text + first.text, False)], after)
    is_kept = both[: len(before)] == before
    head = both[len(before) :] if is_kept else tokenizer.encode_continuation(first.text)
    return [*head, *tokenizer.encode_spans(reply[1:], after=True)]


def _check_shown(message: Mapping[str, Any], reply: str, field: str) -> None:
    """Raises: RequestError if the reply lacks a part of what the message says."""
    parts = {
        name: [part.strip() for part in _THINKING.split(message.get(name) or "")]
        for name in ("content", "reasoning_content")
    }
    parts["tool_calls"] = [
        str((call.get("function") or call).get("name", "")) for call in message.get("tool_calls") or ()
    ]
    for name, texts in parts.items():
        if missing := next((text for text in texts if text not in reply), None):
            raise RequestError(
                f"{field}.{name}",
                f"{missing[:_SHOWN]!r} is not shown by the model's chat template, so it cannot be taught; "
                "leave it out of the example",
            )


def _check_tools(tools: Sequence[Mapping[str, Any]], prompt: str) -> None:
    """Raises: RequestError if the prompt lacks a tool."""
    names = [str((tool.get("function") or tool).get("name", "")) for tool in tools]
    if missing := next((name for name in names if name not in prompt), None):
        raise RequestError(
            "tools",
            f"{missing[:_SHOWN]!r} is not shown by the model's chat template; describe the tools in the "
            "system message",
        )


def _sequences(turns: list[_Turn]) -> tuple[Taught, ...]:
    """Every turn in the longest sequence that begins with its ids."""
    sequences: list[Taught] = []
    for turn in reversed(turns):
        ids = np.asarray(turn.prompt + turn.reply, dtype=np.int32)
        host = next((s for s in sequences if np.array_equal(s.ids[: len(ids)], ids)), None)
        if host is None:
            sequences.append(_taught(turn))
            continue
        host.taught[len(turn.prompt) : len(ids)] = True
        sequences[sequences.index(host)] = Taught(
            host.ids, host.taught, np.concatenate(([len(ids)], host.turns)).astype(np.int32)
        )
    return tuple(reversed(sequences))


def _taught(turn: _Turn) -> Taught:
    ids = np.asarray(turn.prompt + turn.reply, dtype=np.int32)
    taught = np.arange(len(ids)) >= len(turn.prompt)
    return Taught(ids, taught, np.asarray([len(ids)], dtype=np.int32))
