"""From a checked body to engine requests: encode the prompt, check that it fits, spread n and the seed.

In: `ChatRequest` or `CompletionRequest`.  Out: `Prepared`, whose requests go to the engine.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tuition.core.errors import CapacityError, RequestError
from tuition.engine.draw_rules import MinTokens
from tuition.engine.request import Request, Sampling, sampling_of
from tuition.model.generation import GenerationDefaults
from tuition.serve.context import ServedModel
from tuition.serve.messages import for_template
from tuition.serve.protocol import ChatRequest, Common, CompletionRequest, Prompt
from tuition.serve.settings import ServeSettings

DEFAULT_COMPLETION_TOKENS = 16
_NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


@dataclass(frozen=True)
class Caller:
    """Who asks for what, under which limits."""

    call_id: str
    model: ServedModel
    settings: ServeSettings
    salt: str
    """Separates the prefix caches of different keys."""


@dataclass(frozen=True)
class Prepared:
    """A call, ready for the engine. Sequence i answers prompt i // num_choices."""

    requests: tuple[Request, ...]
    num_choices: int
    prompt_texts: tuple[str, ...] = ()
    """The text of each prompt, where the reply needs it."""
    echo: bool = False
    """The reply begins with the prompt."""

    @property
    def num_prompt_tokens(self) -> int:
        """Each prompt counted once."""
        return sum(len(request.prompt) for request in self.requests[:: self.num_choices])

    def prompt_text(self, index: int) -> str:
        """The text that sequence `index` continues."""
        return self.prompt_texts[index // self.num_choices]


@dataclass(frozen=True)
class _Wish:
    """Values that the two endpoints name differently."""

    field: str
    max_tokens: int | None
    logprobs: int | None
    prompt_logprobs: int | None = None
    default_tokens: int | None = None
    """Most tokens where the call names no limit, if they fit; None: to the end of the context."""


def prepare_chat(body: ChatRequest, caller: Caller) -> Prepared:
    """Render the conversation. Blocks while the template runs. Raises: RequestError, CapacityError."""
    tokenizer, variables = caller.model.tokenizer, dict(body.chat_template_kwargs or {})
    chat = tokenizer.template_for(variables)
    if chat is None:
        raise RequestError(
            "model", f"{caller.model.name} has no chat template, it continues text; use /v1/completions"
        )
    messages = for_template(body.messages, chat.source)
    if body.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", body.reasoning_effort)
    prompt = tokenizer.render_chat(
        messages,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        template_kwargs=variables or None,
    )
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    most = caller.settings.default_max_tokens or caller.model.defaults.max_new_tokens
    wish = _Wish("messages", body.token_limit, logprobs, default_tokens=most)
    return _spread(body, [tuple(prompt)], wish, caller)


def prepare_completion(body: CompletionRequest, caller: Caller) -> Prepared:
    """Encode the prompts. Raises: RequestError, CapacityError."""
    prompts = [_encode(prompt, caller.model) for prompt in body.prompt]
    scored = body.logprobs if body.echo else None
    wish = _Wish("prompt", body.max_tokens, body.logprobs, scored, DEFAULT_COMPLETION_TOKENS)
    prepared = _spread(body, prompts, wish, caller)
    if not body.echo and body.logprobs is None:
        return prepared
    stream = caller.model.tokenizer.stream  # an unfinished character at the end belongs to the reply
    texts = tuple(prompt if isinstance(prompt, str) else stream().push_all(prompt) for prompt in body.prompt)
    return Prepared(prepared.requests, prepared.num_choices, texts, bool(body.echo))


def check_token_ids(field: str, ids: Sequence[int], model: ServedModel) -> None:
    """Raises: RequestError if an id is not in the vocabulary."""
    vocab_size = model.tokenizer.vocab_size
    if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
        wanted = f"the vocabulary of {model.name} has {vocab_size:,} tokens, 0 to {vocab_size - 1:,}"
        raise RequestError(field, f"holds a token id that the model does not have; {wanted}")


def salt_of(api_key: str | None) -> str:
    """What separates the prefix caches of different keys; it stays in this process."""
    return "" if api_key is None else hashlib.sha256(b"cache salt\0" + api_key.encode()).hexdigest()


def _encode(prompt: Prompt, model: ServedModel) -> tuple[int, ...]:
    if isinstance(prompt, str):
        return tuple(model.tokenizer.encode(prompt))
    check_token_ids("prompt", prompt, model)
    return prompt


def _spread(body: Common, prompts: list[tuple[int, ...]], wish: _Wish, caller: Caller) -> Prepared:
    num_choices, settings = body.n or 1, caller.settings
    if num_choices > settings.max_choices:
        raise RequestError("n", f"got {num_choices}, wanted at most {settings.max_choices}")
    if len(prompts) * num_choices > settings.max_sequences:
        wanted = f"at most {settings.max_sequences} sequences in one call"
        raise RequestError(wish.field, f"got {len(prompts)} prompts with n = {num_choices}, wanted {wanted}")
    biases, stop_ids = _biases(body, caller.model), body.stop_token_ids or ()
    check_token_ids("stop_token_ids", stop_ids, caller.model)  # the model's own list may say what it likes
    if not body.ignore_eos:
        stop_ids += caller.model.end_ids
    least = body.min_tokens or 0
    rules = (lambda request: MinTokens(request.stop_ids, least),) if least and stop_ids else ()
    requests: list[Request] = []
    for prompt in prompts:
        max_tokens = _fit(prompt, wish, caller)
        if least > max_tokens:
            raise RequestError("min_tokens", f"got {least:,}, and at most {max_tokens:,} are generated")
        for choice in range(num_choices):
            request = Request(
                id=f"{caller.call_id}-{len(requests)}",
                prompt=prompt,
                max_tokens=max_tokens,
                sampling=_sampling(body, choice, biases, caller.model.defaults),
                stop=body.stop or (),
                stop_ids=stop_ids,
                logprobs=wish.logprobs,
                prompt_logprobs=wish.prompt_logprobs,
                cache_salt=caller.salt,
                rules=rules,
                variant=caller.model.variant,
            )
            requests.append(request)
    return Prepared(tuple(requests), num_choices)


def _fit(prompt: tuple[int, ...], wish: _Wish, caller: Caller) -> int:
    """Tokens to generate.

    Raises: CapacityError with both numbers if prompt and reply do not fit the context.
    """
    if not prompt:
        raise RequestError(wish.field, "is empty; the model needs at least one token to go on from")
    context_length = caller.model.context_length
    free = context_length - len(prompt)
    least = 1 if wish.max_tokens is None else wish.max_tokens
    if free < least:
        raise CapacityError(
            f"a prompt of {len(prompt):,} tokens with a reply of {least:,}",
            need=len(prompt) + least,
            free=context_length,
            unit="tokens of context",
            way_out="shorten the prompt or lower max_tokens",
        )
    if wish.max_tokens is None:
        return min(free, wish.default_tokens or free)
    return wish.max_tokens


def _sampling(
    body: Common, choice: int, biases: tuple[tuple[int, float], ...], defaults: GenerationDefaults
) -> Sampling:
    asked: dict[str, Any] = {name: getattr(body, name) for name in _NUMBERS}
    if body.top_k is not None:
        asked["top_k"] = max(0, body.top_k)
    if body.seed is not None:
        asked["seed"] = (body.seed + choice) % 2**63
    return sampling_of(asked | {"logit_bias": biases}, defaults)


def _biases(body: Common, model: ServedModel) -> tuple[tuple[int, float], ...]:
    if not body.logit_bias:
        return ()
    if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in body.logit_bias):
        raise RequestError("logit_bias", "wanted token ids in decimal digits as keys")
    biases: dict[int, float] = {}
    for key, value in body.logit_bias.items():
        if int(key) in biases:  # "5" and "05"
            raise RequestError(f"logit_bias.{key}", f"names token {int(key)} a second time")
        biases[int(key)] = float(value)
    check_token_ids("logit_bias", list(biases), model)
    return tuple(sorted(biases.items()))
