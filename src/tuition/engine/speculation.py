"""Draft the next tokens by looking them up in the text so far, and stop where drafting does not pay.

A draft is kept only if it equals the token that is drawn at its position, so drafting changes the time,
never the reply. The cost of a step with drafts is measured against a plain one at the same batch size. Source
of the idea: prompt lookup decoding (Saxena 2023); acceptance here is by equality with a counter-based draw.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

import numpy as np

from tuition.core.records import SequenceWork
from tuition.engine.sequence import Sequence

LONGEST = 3
"""Tokens that must repeat for a draft; shorter repeats are tried next."""
SHORTEST = 2
EXPLORE_EVERY = 32
"""After so many steps of one kind the other is tried again, since costs change with context and load."""
TRIAL_STEPS = 4
"""Most plain steps of a trial, where a burst could take more."""
SLOW = 0.1
"""Weight of the newest measurement."""


class Drafter(Protocol):
    """Proposes tokens of a reply before they are computed, and says whether that pays."""

    def pays(self, num_decodes: int) -> bool:
        """Whether the next step with this many decodes should have drafts."""
        ...

    def is_trial(self, num_decodes: int) -> bool:
        """Whether the next step is there to learn what the other choice costs."""
        ...

    def learn(
        self, num_decodes: int, num_drafts: int, num_tokens: int, took_ns: int, num_steps: int = 1
    ) -> None:
        """Take in a step made of decodes only: its drafts, the tokens it gave in all, and its time.

        Of `num_steps` plain ones in a row, the mean time of one and its tokens.
        """
        ...

    def draft(self, tokens: np.ndarray, most: int) -> np.ndarray:
        """Up to `most` tokens that may follow. Shapes: tokens (known,) int32; the result (0..most,) int32."""
        ...


def allowed_drafts(drafter: Drafter) -> Callable[[Sequence, int], np.ndarray]:
    """The drafter's tokens for a sequence, up to the first that the rules of its reply forbid."""

    def draft(sequence: Sequence, most: int) -> np.ndarray:
        drafts = drafter.draft(sequence.tokens[: sequence.num_tokens], most)
        state = sequence.reply.state
        return drafts if state.takes_raw_rows else drafts[: state.num_allowed(drafts.tolist())]

    return draft


def learn_from(drafter: Drafter, work: list[SequenceWork], num_steps: int, took_ns: int) -> None:
    """Tell the drafter of a step, or of a burst of `num_steps`; one with prompts in it teaches nothing."""
    computed = wasted = 0
    for one in work:
        if one.phase != "decode":
            return
        computed += one.num_tokens
        wasted += one.num_wasted
    if num_steps > 1:  # plain steps: the mean of one counts
        computed, wasted, took_ns = len(work), 0, took_ns // num_steps
    drafter.learn(len(work), computed - len(work), computed - wasted, took_ns, num_steps)


def look_up(tokens: np.ndarray, most: int) -> np.ndarray:
    """Up to `most` tokens that followed the latest earlier place where `tokens` ended as it ends now.

    Shapes: tokens (known,) int32; the result (0..most,) int32, a view.
    """
    for size in range(LONGEST, SHORTEST - 1, -1):
        if len(tokens) <= size:
            continue
        end = tokens[-size:]
        match = tokens[:-size] == end[0]
        for offset in range(1, size):
            match &= tokens[offset : offset - size] == end[offset]
        places = match.nonzero()[0]
        if len(places):
            # the latest place may overlap the end and give few tokens; an earlier one may give `most`
            full = places[places + size + most <= len(tokens)]
            start = int(full[-1] if len(full) else places[0]) + size
            return tokens[start : start + most]
    return tokens[:0]


class _Prices:
    """Moving means of one batch size: a plain step, a step with drafts and its tokens per sequence."""

    __slots__ = ("drafting_ns", "plain_ns", "since_trial", "yielded")

    def __init__(self) -> None:
        self.plain_ns: float | None = None
        self.drafting_ns: float | None = None
        self.yielded = 1.0
        self.since_trial = 0

    @property
    def favours_drafting(self) -> bool:
        if self.drafting_ns is None or self.plain_ns is None:
            return self.drafting_ns is None
        return self.yielded * self.plain_ns > self.drafting_ns


class PromptLookup:
    """The `Drafter` that looks up repeats in the text so far."""

    def __init__(self) -> None:
        self._prices: defaultdict[int, _Prices] = defaultdict(_Prices)

    def pays(self, num_decodes: int) -> bool:
        """See `Drafter`."""
        return self._prices[num_decodes.bit_length()].favours_drafting != self.is_trial(num_decodes)

    def is_trial(self, num_decodes: int) -> bool:
        """See `Drafter`."""
        return self._prices[num_decodes.bit_length()].since_trial >= EXPLORE_EVERY

    def learn(
        self, num_decodes: int, num_drafts: int, num_tokens: int, took_ns: int, num_steps: int = 1
    ) -> None:
        """See `Drafter`."""
        prices = self._prices[num_decodes.bit_length()]
        as_favoured = (num_drafts > 0) == prices.favours_drafting
        prices.since_trial = prices.since_trial + num_steps if as_favoured else 0
        if num_drafts == 0:
            prices.plain_ns = _mean(prices.plain_ns, took_ns)
        else:
            prices.drafting_ns = _mean(prices.drafting_ns, took_ns)
            prices.yielded += SLOW * (num_tokens / num_decodes - prices.yielded)

    def draft(self, tokens: np.ndarray, most: int) -> np.ndarray:
        """See `Drafter`."""
        return look_up(tokens, most)


def _mean(old: float | None, new: float) -> float:
    return float(new) if old is None else old + SLOW * (new - old)
