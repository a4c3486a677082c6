"""Guess the next tokens by looking them up in the text so far, and stop guessing where it does not pay.

A guess is kept only if it is the very token that its position's draw gives, so guessing changes the time,
never the reply. What a step with guesses costs is measured against a plain one at the same batch size. Source
of the idea: prompt lookup decoding (Saxena 2023); acceptance here is by equality with a counter-based draw.
"""

from collections import defaultdict

import numpy as np

from tuition.engine.sequence import Sequence

LONGEST = 3
"""Tokens that must repeat for a guess; shorter repeats are tried next."""
SHORTEST = 2
EXPLORE_EVERY = 32
"""After so many steps of one kind the other is tried again, since prices change with context and load."""
TRIAL_STEPS = 4
"""Most plain steps of a trial, where a burst could take more."""
SLOW = 0.1
"""Weight of the newest measurement."""


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
            # the latest place may overlap the end and give few tokens; an earlier one may give all
            full = places[places + size + most <= len(tokens)]
            start = int(full[-1] if len(full) else places[0]) + size
            return tokens[start : start + most]
    return tokens[:0]


class _Prices:
    """Moving means of one batch size: a plain step, a step with guesses, and what the latter yields."""

    __slots__ = ("guessing_ns", "plain_ns", "since_trial", "yielded")

    def __init__(self) -> None:
        self.plain_ns: float | None = None
        self.guessing_ns: float | None = None
        self.yielded = 1.0
        self.since_trial = 0

    @property
    def favours_guessing(self) -> bool:
        if self.guessing_ns is None or self.plain_ns is None:
            return self.guessing_ns is None
        return self.yielded * self.plain_ns > self.guessing_ns


class PromptLookup:
    """Drafts for one engine, and the decision whether drafting pays at the present batch size."""

    def __init__(self) -> None:
        self._prices: defaultdict[int, _Prices] = defaultdict(_Prices)

    def pays(self, num_decodes: int) -> bool:
        """Whether the next step with this many decodes should guess."""
        return self._prices[num_decodes.bit_length()].favours_guessing != self.is_trial(num_decodes)

    def is_trial(self, num_decodes: int) -> bool:
        """Whether the next step is there to learn what the other choice costs."""
        return self._prices[num_decodes.bit_length()].since_trial >= EXPLORE_EVERY

    def learn(
        self, num_decodes: int, num_drafts: int, num_tokens: int, took_ns: int, num_steps: int = 1
    ) -> None:
        """Take in a step made of decodes only: its guesses, the tokens it gave in all, and its time.

        Of `num_steps` plain ones in a row, what each took and gave.
        """
        prices = self._prices[num_decodes.bit_length()]
        as_favoured = (num_drafts > 0) == prices.favours_guessing
        prices.since_trial = prices.since_trial + num_steps if as_favoured else 0
        if num_drafts == 0:
            prices.plain_ns = _mean(prices.plain_ns, took_ns)
        else:
            prices.guessing_ns = _mean(prices.guessing_ns, took_ns)
            prices.yielded += SLOW * (num_tokens / num_decodes - prices.yielded)

    @staticmethod
    def draft(sequence: Sequence, most: int) -> int:
        """Write guesses behind the sequence's tokens; returns how many."""
        known = sequence.num_tokens
        guess = look_up(sequence.tokens[:known], most)
        sequence.tokens[known : known + len(guess)] = guess
        return len(guess)


def _mean(old: float | None, new: float) -> float:
    return float(new) if old is None else old + SLOW * (new - old)
