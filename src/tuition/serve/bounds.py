"""Size limits of a large body, checked before it is validated and encoded.

In: a parsed body, and limits as plain numbers.  Out: nothing, or the error that validation or encoding would
end in, much later.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tuition.core.errors import CapacityError, RequestError
from tuition.serve.protocol import MAX_BIASES, MAX_STOP_IDS, MAX_STOPS

MAX_FIELDS = 1_000
MAX_VALUES = 50_000
"""Most JSON values in what a chat template is given, or in a body for another endpoint."""


@dataclass(frozen=True)
class ModelLimits:
    """What bounds the prompts of one model."""

    context_length: int
    longest_token: int | None
    """Most bytes that one token stands for, where that is known."""


@dataclass(frozen=True)
class BodyLimits:
    """What bounds a body."""

    max_sequences: int
    models: Mapping[str, ModelLimits]


def check_sizes(body: Mapping[str, Any], limits: BodyLimits) -> None:
    """Raises: RequestError for a count above its limit, CapacityError for a prompt that cannot fit."""
    if len(body) > MAX_FIELDS:
        raise RequestError("body", f"has {len(body):,} fields, wanted at most {MAX_FIELDS:,}")
    for field, most in (("logit_bias", MAX_BIASES), ("stop_token_ids", MAX_STOP_IDS), ("stop", MAX_STOPS)):
        items = body.get(field)
        if isinstance(items, list | dict) and len(items) > most:
            raise RequestError(field, f"has {len(items):,} entries, wanted at most {most:,}")
    name = body.get("model")
    model = limits.models.get(name) if isinstance(name, str) else None
    models = [model] if model is not None else list(limits.models.values())
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt:
        if type(prompt[0]) is int:
            _check_tokens(len(prompt), models)
        else:
            _check_count(len(prompt), limits.max_sequences)
            for one in prompt:
                if isinstance(one, list):
                    _check_tokens(len(one), models)
                elif isinstance(one, str):
                    _check_text([one], models)
    elif isinstance(prompt, str):
        _check_text([prompt], models)
    messages = body.get("messages")
    if isinstance(messages, list):
        _check_text(_contents(messages), models)


def check_values(field: str, value: Any) -> None:
    """Raises: RequestError if `value` holds more than `MAX_VALUES` values, itself and those inside of it.

    An integer counts once more for each 64 bits: the time to read and write it grows faster than its length.
    """
    stack, count = [value], 0
    while stack:
        item = stack.pop()
        count += 1
        if isinstance(item, dict):
            stack += item.values()
        elif isinstance(item, list | tuple):
            stack += item
        elif isinstance(item, int):
            count += item.bit_length() // 64
    if count > MAX_VALUES:
        raise RequestError(field, f"holds {count:,} values, wanted at most {MAX_VALUES:,}")


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise RequestError("prompt", f"got {count:,} prompts, wanted at most {most:,} sequences in one call")


def _check_tokens(count: int, models: list[ModelLimits]) -> None:
    most = max(model.context_length for model in models)
    if count > most:
        raise _too_long(f"a prompt of {count:,} tokens", count, most)


def _check_text(texts: Iterable[str], models: list[ModelLimits]) -> None:
    """By the fewest tokens that so many bytes can be."""
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    fewest, most = [], max(model.context_length for model in models)
    if size <= most:
        return
    for model in models:
        longest = model.longest_token
        if longest is None:
            return
        fewest.append(-(-size // longest))
    if min(fewest) > most:
        raise _too_long(f"a prompt of {size:,} bytes, at least {min(fewest):,} tokens,", min(fewest), most)


def _contents(messages: list[Any]) -> Iterable[str]:
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            for part in content:
                text = part.get("text") if isinstance(part, dict) else None
                if isinstance(text, str):
                    yield text


def _too_long(what: str, need: int, free: int) -> CapacityError:
    return CapacityError(what, need=need, free=free, unit="tokens of context", way_out="shorten the prompt")
