"""What decides the next token of one reply, as one object: settings, seed, end tokens and rules.

In: rows of logits, (vocab,) float32.  Out: token ids. Single steps call `draw` and `advance`; a runner's
burst reads the arrays; speculation asks `num_allowed` before it drafts. The state belongs to the tokens that
the reply has: preemption, drafts that fail and swapped weights do not change it.
"""

import math
import secrets
from collections.abc import Sequence

import numpy as np

from tuition.engine.draw_rules import Bias, DrawRule, Penalties
from tuition.engine.request import Request
from tuition.engine.sampler import SEED_MASK, Draw, PoisonedLogitsError, argmax, draw, uniform


class NoTokenAllowedError(ValueError):
    """The rules of a reply forbid every token of the vocabulary."""


class DrawState:
    """The draws of one reply. `takes_raw_rows`: it has no rules, so rows may be drawn from unchanged."""

    __slots__ = ("_draw", "_failure", "_masks", "_rules", "_sampling", "_tokens", "is_greedy",
                 "sampling_array", "seed", "seed_array", "stop_array", "stop_ids",
                 "takes_raw_rows")  # fmt: skip

    def __init__(self, request: Request, draw: Draw = draw) -> None:
        """`draw`: the runner's own, where it has one.

        Raises: whatever a rule of the request raises when it starts.
        """
        sampling = self._sampling = request.sampling
        self._draw = draw
        self._masks = tuple([start(request) for start in request.rules])
        self._rules = (*_own_rules(request), *self._masks)
        self._tokens: list[int] = []
        """Tokens that the rules were advanced by."""
        self._failure: Exception | None = None
        """What a rule raised while drafts were checked; the next draw raises it: one request fails."""
        self.takes_raw_rows = not self._rules
        self.is_greedy = sampling.is_greedy
        self.seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.stop_ids = frozenset() if request.ignore_eos else frozenset(request.stop_ids)
        settings = (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
        if sampling.is_greedy:
            settings = (0.0, 0, 1.0, 0.0)
        self.sampling_array = np.array([settings], np.float64)
        """(1, 4): temperature, top_k, top_p, min_p."""
        self.seed_array = np.array([self.seed & SEED_MASK], np.uint64)
        """(1,)"""
        known = [i for i in sorted(self.stop_ids) if 0 <= i < 1 << 31]  # no other is ever chosen
        self.stop_array = np.array(known, np.int32)
        """(count,)"""

    def mask(self, row: np.ndarray) -> np.ndarray:
        """The row as the rules leave it: `row` itself where there are none, else a changed copy."""
        if not self._rules:
            return row
        if self._failure is not None:
            raise self._failure
        row = row.copy()
        for rule in self._rules:
            rule.apply(row)
        return row

    def draw(self, row: np.ndarray, position: int) -> int:
        """The token at `position` (counted from the prompt's first token). `row` stays as it is.

        Raises: PoisonedLogitsError; NoTokenAllowedError.
        """
        masked = self.mask(row) if self._rules else row
        try:
            if self.is_greedy:
                return argmax(masked)
            return self._draw(masked, self._sampling, uniform(self.seed, position))
        except PoisonedLogitsError as error:
            if masked is not row and math.isfinite(row.max()):
                raise NoTokenAllowedError("the rules of this request allow no token here") from error
            raise

    def advance(self, token_ids: Sequence[int]) -> None:
        """These tokens now stand at the end of the reply."""
        if self._rules:
            self._tokens += token_ids
            for token_id in token_ids:
                for rule in self._rules:
                    rule.advance(token_id)

    def roll_back(self, count: int) -> None:
        """Take back the last `count` tokens."""
        if self._rules and count:
            tokens = self._tokens[-count:]
            del self._tokens[-count:]
            for rule in self._rules:
                rule.roll_back(tokens)

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        """How many of these tokens, from the first, may come next one after the other."""
        if not self._masks:
            return len(token_ids)
        count = 0
        try:
            while count < len(token_ids) and all(rule.allows(token_ids[count]) for rule in self._masks):
                self.advance(token_ids[count : count + 1])
                count += 1
            self.roll_back(count)
        except Exception as error:
            self._failure = error
            return 0
        return count


def _own_rules(request: Request) -> list[DrawRule]:
    """The rules of `Sampling`, in the order that it states."""
    sampling, rules = request.sampling, list[DrawRule]()
    penalties = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty)
    if penalties != (1, 0, 0):
        repetition, presence, frequency = penalties
        prompt = np.array(request.prompt, np.int32)
        rules.append(Penalties(prompt, repetition=repetition, presence=presence, frequency=frequency))
    if sampling.logit_bias:
        rules.append(Bias(sampling.logit_bias))
    return rules
