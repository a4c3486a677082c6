"""What is refused before it costs anything."""

from collections.abc import Collection, Iterable

from tuition.core.errors import CapacityError, RequestError
from tuition.engine.request import Request
from tuition.tokenizer.tokenizer import Tokenizer


def require_room(tokenizer: Tokenizer, texts: Iterable[object], context: int) -> None:
    """Refuse a prompt whose characters cannot be as few tokens as fit, before it is encoded: that takes about
    150 bytes of memory for each token. What is no text is left to others.

    Raises: CapacityError.
    """
    size = sum(len(text) for text in texts if isinstance(text, str))
    widest = tokenizer.longest_token if size > context else None
    if widest is None or size <= context * widest:
        return
    fewest = -(-size // widest)
    what = f"a prompt of {size:,} characters, at least {fewest:,} tokens,"
    raise CapacityError(
        what, need=fewest, free=context, unit="tokens of context", way_out="shorten the prompt"
    )


def validate(
    request: Request, *, variants: Collection[str], context: int, vocab_size: int, cache_tokens: int
) -> None:
    """Refuse what could never run.

    `variants`: of the weights, by name. `context`: most tokens of prompt and reply.
    `cache_tokens`: what the whole cache holds.
    Raises: RequestError (empty prompt, ids outside the vocabulary, counts out of range, unknown variant),
    CapacityError.
    """
    num_prompt = len(request.prompt)
    if num_prompt == 0:
        raise RequestError("prompt", "is empty, wanted at least one token")
    if request.max_tokens < 0:
        raise RequestError("max_tokens", f"got {request.max_tokens}, wanted at least 0")
    if min(request.prompt) < 0 or max(request.prompt) >= vocab_size:
        raise RequestError("prompt", f"has a token id outside 0 to {vocab_size - 1}")
    for token_id, bias in request.sampling.logit_bias:
        if not 0 <= token_id < vocab_size:
            raise RequestError("logit_bias", f"{token_id} is outside 0 to {vocab_size - 1}")
        if not -100 <= bias <= 100:
            raise RequestError("logit_bias", f"got {bias} for {token_id}, wanted -100 to 100")
    for name in ("logprobs", "prompt_logprobs"):
        value = getattr(request, name)
        if value is not None and not 0 <= value <= 20:
            raise RequestError(name, f"got {value}, wanted 0 to 20")
    if any(not stop for stop in request.stop):
        raise RequestError("stop", "has an empty text")
    if request.variant is not None and request.variant not in variants:
        known = ", ".join(sorted(variants)) or "none: no variant is loaded"
        raise RequestError("variant", f"got {request.variant!r}, wanted one of: {known}")
    if num_prompt > context:
        raise CapacityError(
            "the prompt",
            need=num_prompt,
            free=context,
            unit="tokens of context",
            way_out="shorten the prompt",
        )
    need = num_prompt + request.max_tokens
    if need > context:
        raise CapacityError(
            f"a prompt of {num_prompt:,} tokens with max_tokens {request.max_tokens:,}",
            need=need,
            free=context,
            unit="tokens of context",
            way_out=f"lower max_tokens to {context - num_prompt:,} or shorten the prompt",
        )
    if need > cache_tokens:
        raise CapacityError(
            "this request",
            need=need,
            free=cache_tokens,
            unit="tokens of cache",
            way_out="raise cache_bytes or lower max_tokens",
        )
