"""Judge what a model writes: how many of its words exist, and how much it copies.

In: samples and the text it was taught.  Out: the share of words that occur in the text, and the longest run
of words that was copied from it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
"""Letters, with apostrophes inside; case does not count."""


@dataclass(frozen=True)
class SampleQuality:
    """Figures of all samples together."""

    num_words: int
    known_share: float
    """Share of the words that occur in the text, 0 to 1."""
    unknown_words: tuple[str, ...]
    """Different words that do not occur in it, the first twenty."""
    longest_copied_words: int
    """Most words in a row that stand in the text in this order."""
    longest_copied_text: str


class TaughtText:
    """Words of a text and where they stand, for looking up samples."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._numbers: dict[str, int] = {}
        self._words: list[int] = []
        self._places: dict[tuple[int, int, int], list[int]] = {}
        for text in texts:
            self._add(text)

    def _add(self, text: str) -> None:
        begin = len(self._words)
        self._words.extend(self._numbers.setdefault(word, len(self._numbers)) for word in words_of(text))
        for place in range(begin, len(self._words) - 2):
            triple = (self._words[place], self._words[place + 1], self._words[place + 2])
            self._places.setdefault(triple, []).append(place)
        self._words.append(-1)  # no run crosses from one document into the next

    def knows(self, word: str) -> bool:
        """Whether this word, in lower case, occurs in the text."""
        return word in self._numbers

    def longest_run(self, words: Sequence[str]) -> tuple[int, int]:
        """Start and length of the longest run of `words` that stands in the text; runs below three words
        count as 0."""
        numbers = [self._numbers.get(word, -2) for word in words]
        best_start, best = 0, 0
        for start in range(len(numbers) - 2):
            triple = (numbers[start], numbers[start + 1], numbers[start + 2])
            for place in self._places.get(triple, ()):
                length = 3
                while (
                    start + length < len(numbers)
                    and place + length < len(self._words)
                    and numbers[start + length] == self._words[place + length]
                ):
                    length += 1
                if length > best:
                    best_start, best = start, length
        return best_start, best


def words_of(text: str) -> list[str]:
    """Words in lower case."""
    return [match.lower().replace("’", "'") for match in WORD.findall(text)]


def sample_quality(samples: Iterable[str], taught: TaughtText) -> SampleQuality:
    """Judge samples, which must not include the prompts."""
    num_words = num_known = 0
    unknown: dict[str, None] = {}
    longest, copied = 0, ""
    for sample in samples:
        words = words_of(sample)
        num_words += len(words)
        for word in words:
            if taught.knows(word):
                num_known += 1
            else:
                unknown[word] = None
        start, length = taught.longest_run(words)
        if length > longest:
            longest, copied = length, " ".join(words[start : start + length])
    share = num_known / num_words if num_words else 0.0
    return SampleQuality(num_words, share, tuple(unknown)[:20], longest, copied)
