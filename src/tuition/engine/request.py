"""What the engine is asked for and what it returns: `Request` -> `TokenEvent` ... -> `Completion`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tuition.core.errors import RequestError
from tuition.core.records import FinishReason
from tuition.model.generation import GenerationDefaults

if TYPE_CHECKING:  # numpy, which the help of `tuition generate` does not need
    from tuition.engine.draw_rules import DrawRule

Priority = Literal["interactive", "batch"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Order: penalties, logit bias, temperature, top-k, top-p, min-p, draw."""

    temperature: float = 1.0
    """0 takes the most likely token, ties to the lower id."""
    top_k: int = 0
    """Keep this many most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with at least this much probability; 0 keeps the most likely one."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one."""
    repetition_penalty: float = 1.0
    """Divides (positive) or multiplies (negative) logits of tokens in prompt or reply."""
    presence_penalty: float = 0.0
    """Subtracted once from logits of tokens already in the reply."""
    frequency_penalty: float = 0.0
    """Subtracted for each time a token is already in the reply."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Added to the logits of these token ids."""
    seed: int | None = None
    """Default: a fresh one. A draw is a function of (seed, position): neighbours never change a reply."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("temperature", 0.0, 2.0),
            ("top_k", 0, 1 << 20),
            ("top_p", 0.0, 1.0),
            ("min_p", 0.0, 1.0),
            ("repetition_penalty", 0.01, 10.0),
            ("presence_penalty", -2.0, 2.0),
            ("frequency_penalty", -2.0, 2.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:  # NaN fails this as well
                raise RequestError(name, f"got {value}, wanted {low} to {high}")

    @property
    def is_greedy(self) -> bool:
        """Nothing is drawn: the most likely token is the only one that is kept."""
        return self.temperature == 0 or self.top_p == 0 or self.top_k == 1


def sampling_of(asked: Mapping[str, Any], defaults: GenerationDefaults) -> Sampling:
    """The fields that a caller asks for, over those that the model wants, over the engine's own.

    None means not asked for. Raises: RequestError for a value out of range.
    """
    fields: dict[str, Any] = {**defaults.sampling()}
    fields |= {name: value for name, value in asked.items() if value is not None}
    return Sampling(**fields)


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to be continued."""

    id: str
    prompt: tuple[int, ...]
    """Token ids, at least one."""
    max_tokens: int
    """Most tokens to generate; 0 only scores the prompt."""
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    """Texts that end the reply and are not part of it."""
    stop_ids: tuple[int, ...] = ()
    """Token ids that end the reply (end of turn); not part of its text."""
    ignore_eos: bool = False
    """Go on past stop_ids; for load tests."""
    logprobs: int | None = None
    """None: none. N: the chosen token's, and the N most likely ones (0 to 20)."""
    prompt_logprobs: int | None = None
    """The same for each prompt token after the first (echo)."""
    cache_salt: str = ""
    """Prefix blocks are shared only among equal salts (one per API key)."""
    priority: Priority = "interactive"
    variant: str | None = None
    """Name of a variant of the weights (an adapter); None: the weights as they are."""
    rules: tuple[Callable[["Request"], "DrawRule"], ...] = ()
    """Further rules of the draw, after penalties and bias: each makes its state for this reply."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token and how likely it was."""

    token_id: int
    logprob: float | None
    """Natural logarithm; None for the first prompt token."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens here, most likely first, the argmax always among them."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When a request reached each state, monotonic ns."""

    submitted_ns: int
    admitted_ns: int
    """When it was admitted to a step; for a request that never was, its end."""
    first_token_ns: int | None
    finished_ns: int


@dataclass(slots=True)
class TokenEvent:
    """What a step has added to a reply: one token; several, from a burst or from confirmed drafts; or only
    the end. Text may be empty while UTF-8 or a possible stop text is held back.

    Not frozen: a frozen dataclass takes 5x longer to construct, and one is made for each step.
    """

    request_id: str
    token_ids: tuple[int, ...]
    """Empty on an event that carries only the end or the prompt's logprobs."""
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each token, where they were asked for."""
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    """Set exactly once, on the last event."""
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    """Prompt tokens taken from the prefix cache."""
    num_generated: int = 0
    """Tokens generated so far, these included."""
    timing: Timing | None = None
    """On the last event."""
    error: str | None = None
    """With finish_reason `error`: what went wrong, one line."""
    variant: str | None = None
    """On the last event: the variant of the weights that the request named."""
    weights_digest: str | None = None
    """On the last event, once weights were swapped: of those that computed its step."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole reply: the events of one request, folded."""

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_cached_tokens: int
    num_generated: int
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    timing: Timing | None = None
    error: str | None = None
    variant: str | None = None
    weights_digest: str | None = None


def complete(events: Sequence[TokenEvent]) -> Completion:
    """Fold one request's events into its reply; streaming and plain replies cannot differ."""
    last = events[-1]
    if last.finish_reason is None:
        raise ValueError(f"the stream of request {last.request_id} has not ended")
    return Completion(
        request_id=last.request_id,
        text="".join(event.text for event in events),
        token_ids=tuple(token_id for event in events for token_id in event.token_ids),
        finish_reason=last.finish_reason,
        num_prompt_tokens=last.num_prompt_tokens,
        num_cached_tokens=last.num_cached_tokens,
        num_generated=last.num_generated,
        logprobs=tuple(logprob for event in events for logprob in event.logprobs),
        prompt_logprobs=next((e.prompt_logprobs for e in events if e.prompt_logprobs is not None), None),
        timing=last.timing,
        error=last.error,
        variant=last.variant,
        weights_digest=last.weights_digest,
    )
