"""Marks that keep the text of messages from becoming a template's own tokens.

In: the tokens of a template.  Out: `Marks`, which breaks every one of them inside message text before a
template sees it, and removes the marks from what the template wrote.
"""

import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any

_STRETCH = 1 << 16
"""Characters that are searched at once."""


class _Tokens:
    """What is looked for in texts; the same for every conversation of a model."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self.longest_first = sorted({token for token in tokens if token}, key=len, reverse=True)
        self.whole = _alternatives(self.longest_first, "", "")
        self.longest = max(map(len, self.longest_first), default=0)
        self._ends = {token[begin:] for token in self.longest_first for begin in range(1, len(token))}
        self._end_lengths = sorted({len(end) for end in self._ends})
        self._blank_ends = [end for end in self._ends if end[0].isspace()]

    @cached_property
    def at_end(self) -> re.Pattern[str]:
        """The beginning of a token at the end of a text."""
        starts = {token[:end] for token in self.longest_first for end in range(1, len(token))}
        return _alternatives(starts, r"(", r")(?=\s*\Z)")

    def end_at_start(self, text: str) -> int:
        """Where the end of a token stands at the start of a text, blanks aside; -1 if there is none."""
        blank = len(text) - len(text.lstrip())
        if any(text[blank : blank + length] in self._ends for length in self._end_lengths):
            return blank
        return max((text.rfind(end, 0, blank + len(end)) for end in self._blank_ends), default=-1)


class Marks:
    """Random marks for one conversation: neither a user nor a template can know them."""

    def __init__(self, tokens: Collection[str]) -> None:
        self._tokens = _compiled(tuple(tokens))
        self._mark = secret_text()
        self._instead_of = {token: secret_text() for token in self._tokens.longest_first if len(token) == 1}

    def in_text(self, text: str) -> str:
        """The text with a mark in every token, and at a part of one at either edge, which the template might
        complete."""
        tokens, pieces, end = self._tokens, [], 0
        for match in self.matches(text):
            pieces += [text[end : match.start()], self._instead_of.get(match[0]) or self._mark.join(match[0])]
            end = match.end()
        text = "".join([*pieces, text[end:]])
        # Only the edges, since a search for them elsewhere would look at each place of a long text.
        tail = max(0, len(text.rstrip()) - tokens.longest)
        text = text[:tail] + tokens.at_end.sub(lambda match: match[1] + self._mark, text[tail:])
        start = tokens.end_at_start(text)
        return text if start < 0 else text[:start] + self._mark + text[start:]

    def in_value(self, value: Any) -> Any:
        """`in_text` for every text in a JSON value, keys of objects included."""
        if isinstance(value, str):
            return self.in_text(value)
        if isinstance(value, Mapping):
            return {
                self.in_text(key) if isinstance(key, str) else key: self.in_value(item)
                for key, item in value.items()
            }
        return [self.in_value(item) for item in value] if isinstance(value, list | tuple) else value

    def matches(self, text: str) -> Iterator[re.Match[str]]:
        """Every whole token in `text`. Searched in stretches: one search over all of a long text would keep
        every other thread waiting."""
        begin = 0
        while begin < len(text):
            end = begin + _STRETCH
            found = self._tokens.whole.search(text, begin, end + self._tokens.longest)
            if found is not None and found.start() < end:
                yield found
                end = found.end()
            begin = end

    def removed(self, text: str) -> str:
        """The text as it was before it was marked."""
        for token, secret in self._instead_of.items():
            text = text.replace(secret, token)
        return text.replace(self._mark, "")


@lru_cache(maxsize=32)
def _compiled(tokens: tuple[str, ...]) -> _Tokens:
    return _Tokens(tokens)


def secret_text() -> str:
    """Random private-use characters."""
    return "".join(chr(0xF0000 + secrets.randbelow(0xFFFE)) for _ in range(6))


def _alternatives(texts: Collection[str], before: str, after: str) -> re.Pattern[str]:
    if not texts:
        return re.compile(r"(?!)")
    return re.compile(before + "|".join(map(re.escape, sorted(texts, key=len, reverse=True))) + after)
