"""Rules over a reply's next token: each changes a row of logits before the draw, and moves with the reply.

In: rows of logits, (vocab,) float32, and the tokens of one reply.  Out: the same rows, changed in place.
A further rule (a grammar's mask, for example) is one class with these four methods; `Request.rules` names it.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class DrawRule(Protocol):
    """One rule of one reply. `DrawState` calls it; each token of the reply is passed to `advance` once."""

    def apply(self, row: np.ndarray) -> None:
        """Change the row of the next token in place; -inf forbids a token."""
        ...

    def allows(self, token_id: int) -> bool:
        """Whether `token_id` may come next. Drafts are cut before the first token that is not allowed."""
        ...

    def advance(self, token_id: int) -> None:
        """`token_id` is now the last token of the reply."""
        ...

    def roll_back(self, token_ids: Sequence[int]) -> None:
        """Take back the last `advance` calls, which were these tokens in this order."""
        ...


class Penalties:
    """Repetition, presence and frequency penalties: which tokens stand in the prompt and in the reply."""

    __slots__ = ("_frequency", "_ids", "_in_reply", "_length", "_num_prompt", "_places", "_presence",
                 "_repetition")  # fmt: skip

    def __init__(self, prompt: np.ndarray, *, repetition: float, presence: float, frequency: float) -> None:
        """`prompt`: (tokens,) int32."""
        self._repetition, self._presence, self._frequency = repetition, presence, frequency
        known = np.unique(prompt)
        self._num_prompt = self._length = len(known)
        self._ids = np.resize(known.astype(np.int64), len(known) + 64)
        self._in_reply = np.zeros(len(self._ids), np.float32)
        self._places = {token: place for place, token in enumerate(known.tolist())}

    def apply(self, row: np.ndarray) -> None:
        """Change `row` in place by the three penalties."""
        ids, in_reply = self._ids[: self._length], self._in_reply[: self._length]
        values = row[ids]
        if self._repetition != 1:
            values = np.where(values > 0, values / self._repetition, values * self._repetition)
        values -= self._frequency * in_reply
        values -= self._presence * (in_reply > 0)
        row[ids] = values

    def allows(self, token_id: int) -> bool:
        """Always: a penalty forbids nothing."""
        return True

    def advance(self, token_id: int) -> None:
        """Count one token of the reply."""
        place = self._places.get(token_id)
        if place is None:
            place = self._places[token_id] = self._length
            self._length += 1
            if place == len(self._ids):
                self._ids = np.resize(self._ids, 2 * place)
                self._in_reply = np.concatenate((self._in_reply, np.zeros(place, np.float32)))
            self._ids[place] = token_id
        self._in_reply[place] += 1

    def roll_back(self, token_ids: Sequence[int]) -> None:
        """Count these tokens of the reply no more."""
        for token_id in token_ids:
            place = self._places[token_id]
            self._in_reply[place] -= 1
            # places are given in the order of first occurrence, so those that empty are the last ones
            if place >= self._num_prompt and self._in_reply[place] == 0:
                del self._places[token_id]
                self._length -= 1


class MinTokens:
    """No end token before the reply has `count` tokens."""

    __slots__ = ("_count", "_ends", "_length")

    def __init__(self, ends: Sequence[int], count: int) -> None:
        self._ends, self._count, self._length = np.array(ends, np.int64), count, 0

    def apply(self, row: np.ndarray) -> None:
        """Forbid the ends that the vocabulary has."""
        if self._length < self._count:
            row[self._ends[self._ends < len(row)]] = -np.inf

    def allows(self, token_id: int) -> bool:
        """Whether it is no end, or one that is late enough."""
        return self._length >= self._count or token_id not in self._ends

    def advance(self, token_id: int) -> None:
        """Count one token of the reply."""
        self._length += 1

    def roll_back(self, token_ids: Sequence[int]) -> None:
        """Count these tokens no more."""
        self._length -= len(token_ids)


class Bias:
    """Numbers added to the logits of some tokens; equal ids add up."""

    __slots__ = ("_ids", "_values")

    def __init__(self, pairs: Sequence[tuple[int, float]]) -> None:
        self._ids = np.array([token for token, _ in pairs], np.int64)
        self._values = np.array([value for _, value in pairs], np.float32)

    def apply(self, row: np.ndarray) -> None:
        """Add the numbers in place."""
        np.add.at(row, self._ids, self._values)

    def allows(self, token_id: int) -> bool:
        """Always: a bias is finite."""
        return True

    def advance(self, token_id: int) -> None:
        """Nothing: a bias does not depend on the reply."""

    def roll_back(self, token_ids: Sequence[int]) -> None:
        """Nothing, see `advance`."""
