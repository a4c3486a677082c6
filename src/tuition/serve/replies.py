"""Replies in the shapes of the OpenAI protocol: choices, whole or in chunks, logprobs, usage.

Two dialects, chat and completion, carry the same content; `calls` and `stream` use either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tuition.core.units import NUSD_PER_USD, UJ_PER_WH
from tuition.desk.desk import Bill
from tuition.engine.request import Completion, TokenEvent, TokenLogprob
from tuition.serve.prompts import Prepared
from tuition.tokenizer.tokenizer import Tokenizer


class Dialect(Protocol):
    """The shape of one endpoint's replies."""

    id_prefix: str
    whole_object: str
    chunk_object: str

    def opening(self, index: int) -> dict[str, Any] | None:
        """The first chunk's choice of sequence `index`, or None."""
        ...

    def piece(self, index: int, event: TokenEvent) -> dict[str, Any] | None:
        """The choice of a chunk for one event, or None when it has nothing to show."""
        ...

    def closing(self, index: int, finish_reason: str) -> dict[str, Any]:
        """The choice of the chunk that sets finish_reason."""
        ...

    def choice(self, index: int, completion: Completion) -> dict[str, Any]:
        """The choice of a whole reply."""
        ...


class ChatDialect:
    """/v1/chat/completions."""

    id_prefix, whole_object, chunk_object = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, with_logprobs: bool) -> None:
        self.tokenizer, self.with_logprobs = tokenizer, with_logprobs

    def opening(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, event: TokenEvent) -> dict[str, Any] | None:
        logprobs = None
        if self.with_logprobs and event.logprobs:
            logprobs = self._logprobs(event.logprobs)
        if not event.text and logprobs is None:
            return None
        return {
            "index": index, "delta": {"content": event.text}, "logprobs": logprobs, "finish_reason": None
        }  # fmt: skip

    def closing(self, index: int, finish_reason: str) -> dict[str, Any]:
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": finish_reason}

    def choice(self, index: int, completion: Completion) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": completion.text, "refusal": None},
            "logprobs": self._logprobs(completion.logprobs) if self.with_logprobs else None,
            "finish_reason": completion.finish_reason,
        }

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        return {
            "content": [
                {
                    **self._token(item.token_id, item.logprob),
                    "top_logprobs": [self._token(token_id, logprob) for token_id, logprob in item.top],
                }
                for item in logprobs
            ],
            "refusal": None,
        }

    def _token(self, token_id: int, logprob: float | None) -> dict[str, Any]:
        content = self.tokenizer.token_bytes(token_id)
        return {
            "token": content.decode("utf-8", "replace"),
            "logprob": as_json_float(logprob),
            "bytes": list(content),
        }


class CompletionDialect:
    """/v1/completions; stateful, since text offsets run through a stream."""

    id_prefix, whole_object, chunk_object = "cmpl-", "text_completion", "text_completion"

    def __init__(self, tokenizer: Tokenizer, prepared: Prepared, with_logprobs: bool, num_top: int) -> None:
        self.tokenizer, self.prepared = tokenizer, prepared
        self.with_logprobs, self.num_top = with_logprobs, num_top
        self._places = [self._begin(index) for index in range(len(prepared.requests))]
        self._echoed: set[int] = set()

    def opening(self, index: int) -> dict[str, Any] | None:
        if not self.prepared.echo or self.with_logprobs:
            return None  # with logprobs the echo waits for those of the prompt
        return self._choice(index, self._prompt_text(index), None, None)

    def piece(self, index: int, event: TokenEvent) -> dict[str, Any] | None:
        text, logprobs = event.text, list[TokenLogprob]()
        if self.with_logprobs:
            if event.prompt_logprobs is not None and index not in self._echoed:
                self._echoed.add(index)
                text = self._prompt_text(index) + text
                logprobs += event.prompt_logprobs
            logprobs += event.logprobs
        if not text and not logprobs:
            return None
        return self._choice(index, text, logprobs, None)

    def closing(self, index: int, finish_reason: str) -> dict[str, Any]:
        return self._choice(index, "", None, finish_reason)

    def choice(self, index: int, completion: Completion) -> dict[str, Any]:
        logprobs = (*(completion.prompt_logprobs or ()), *completion.logprobs)
        text = self._prompt_text(index) + completion.text
        return self._choice(index, text, logprobs, completion.finish_reason)

    def _prompt_text(self, index: int) -> str:
        return self.prepared.prompt_text(index) if self.prepared.echo else ""

    def _begin(self, index: int) -> "_Places":
        """Where the first reported token begins; offsets count from the beginning of the prompt."""
        if self.prepared.echo or not self.with_logprobs:
            return _Places(self.tokenizer, (), 0)
        prompt = self.prepared.requests[index].prompt
        return _Places(self.tokenizer, prompt, len(self.prepared.prompt_text(index)))

    def _choice(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob] | None, finish_reason: str | None
    ) -> dict[str, Any]:
        told = self._logprobs(index, logprobs) if self.with_logprobs and logprobs is not None else None
        return {"index": index, "text": text, "logprobs": told, "finish_reason": finish_reason}

    def _logprobs(self, index: int, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        place, tokens, tops, offsets = self._places[index], list[str](), list[dict[str, float] | None](), []
        for item in logprobs:
            tokens.append(place.name(item.token_id))
            tops.append(self._top(item, place))
            offsets.append(place.next(item.token_id))
        return {
            "tokens": tokens,
            "token_logprobs": [as_json_float(item.logprob) for item in logprobs],
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _top(self, item: TokenLogprob, place: "_Places") -> dict[str, float] | None:
        """The most likely tokens, and the token itself: clients compare its value with the maximum."""
        if item.logprob is None:
            return None
        table = {place.name(token_id): as_json_float(logprob) for token_id, logprob in item.top}
        if self.num_top:
            table.setdefault(place.name(item.token_id), as_json_float(item.logprob))
        return table  # type: ignore[return-value]


class _Places:
    """Where each token begins in the text, in decoded characters, and how it reads there."""

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int], length: int) -> None:
        self._decoder, self._length = tokenizer.stream(after=after), length

    def name(self, token_id: int) -> str:
        """The text of a token at this place; bytes that are not text by themselves get distinct names."""
        content = self._decoder.would_add(token_id)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)

    def next(self, token_id: int) -> int:
        """Where `token_id` begins; the place is then behind it."""
        begin = self._length
        self._length += len(self._decoder.push(token_id))
        return begin


def as_json_float(logprob: float | None) -> float | None:
    """JSON has no infinity; a token that cannot occur gets the lowest figure that clients are used to."""
    return None if logprob is None else max(float(logprob), -9999.0)


@dataclass(frozen=True)
class Usage:
    """Tokens of a call, each prompt counted once, and what it cost."""

    num_prompt_tokens: int
    num_cached_tokens: int
    num_generated: int
    bill: Bill | None = None
    """None while the call is still running."""

    def as_json(self) -> dict[str, Any]:
        """The usage object.

        Cost and energy are ours, energy is null where nothing was measured or modelled.
        """
        usage: dict[str, Any] = {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_generated,
            "total_tokens": self.num_prompt_tokens + self.num_generated,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }
        if self.bill is not None:
            usage |= {
                "cost_usd": self.bill.cost_nusd / NUSD_PER_USD,
                "energy_wh": None if self.bill.energy_uj is None else self.bill.energy_uj / UJ_PER_WH,
                "energy_method": self.bill.energy_method,
                "cost_basis": self.bill.cost_basis,
            }
        return usage
