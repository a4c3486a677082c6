"""Task families: generated examples with exact answers, and how their rows are drawn.

In: a name, a number of rows, a seed and a part.  Out: `Row`s, each a conversation with its target.
The parts `train` and `heldout` have no template, name, product, place, date, time or number in common. Short
lists belong to both: numbers below ten, the parts of a date and of a time of day, days of the week, and the
names that an instruction lists.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from tuition.core.errors import SettingsError

Part = Literal["train", "heldout"]
PARTS: tuple[Part, ...] = get_args(Part)
Kind = Literal["exact", "number", "json"]
Words = Mapping[Part, Sequence[str]]
"""Entities or templates of one sort, by part."""
MOST_TRIES = 1_000
"""After so many draws without a new row, a template counts as used up."""
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One conversation: what is asked, what a right reply is, and what it was drawn from."""

    system: str
    user: str
    reply: str
    """The reference reply, which is taught."""
    target: Any
    """What a checker compares a reply with."""
    template: str
    entities: frozenset[str]
    """Every name, product, place, date, time and number from ten on that was drawn."""

    @property
    def prompt(self) -> list[dict[str, str]]:
        """The messages before the reply."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation with its reply, as for teaching."""
        return [*self.prompt, {"role": "assistant", "content": self.reply}]


@dataclass
class Draws:
    """Random choices within one part; it remembers what was chosen for the current row."""

    random: random.Random
    part: Part
    chosen: set[str] = field(default_factory=set)

    def pick(self, words: Words) -> str:
        """One of the part's entities, other than those chosen for this row before."""
        word = self.random.choice([each for each in words[self.part] if each not in self.chosen])
        self.chosen.add(word)
        return word

    def one_of(self, values: Sequence[T]) -> T:
        """One of a list that both parts share."""
        return self.random.choice(values)

    def number(self, low: int, high: int) -> int:
        """An integer from `low` to `high`; from ten on, one of the part's ranges."""
        value = self._allowed(low, high)
        if value >= 10:
            self.chosen.add(str(value))
        return value

    def date(self) -> tuple[int, int, int]:
        """Year, month and day; the years of the parts are different."""
        day = self.number(1990, 2049), self.random.randint(1, 12), self.random.randint(1, 28)
        self.chosen.add("{:04}-{:02}-{:02}".format(*day))
        return day

    def time(self) -> tuple[int, int]:
        """Hour and minute, from 00:10 to 23:59."""
        hour, minute = divmod(self._allowed(10, 24 * 60 - 1), 60)
        self.chosen.add(f"{hour:02}:{minute:02}")
        return hour, minute

    def _allowed(self, low: int, high: int) -> int:
        value = self.random.randint(low, high)
        while not self.allows(value):
            value = self.random.randint(low, high)
        return value

    def allows(self, number: int) -> bool:
        """Of the ranges of three numbers (12 to 14, 15 to 17, ...) every third is held out; numbers below ten
        are shared. The ranges are short, so that every digit is taught at every place."""
        return number < 10 or (number // 3 % 3 == 2) == (self.part == "heldout")


@dataclass(frozen=True)
class Drawn:
    """What a family's `draw` returns."""

    user: str
    reply: str
    target: Any


@dataclass(frozen=True)
class Family:
    """A kind of task, with templates for both parts."""

    name: str
    about: str
    kind: Kind
    system: str
    max_tokens: int
    templates: Mapping[Part, Sequence[Any]]
    draw: Callable[[Any, Draws], Drawn | None]
    """Fills a template; None where the numbers that were drawn do not fit it."""

    def rows(self, count: int, seed: int, part: Part) -> list[Row]:
        """`count` different rows; templates take turns. Raises: SettingsError where there are not so many."""
        if count < 1:
            raise SettingsError("rows", got=count, wanted="at least 1")
        draws = Draws(random.Random(f"{self.name} {part} {seed}"), part)  # noqa: S311 (no secret)
        templates = list(self.templates[part])
        turns: list[Any] = []
        rows: dict[str, Row] = {}
        while len(rows) < count:
            if not templates:
                raise SettingsError("rows", got=count, wanted=f"at most about {len(rows):,} for {self.name}")
            turns = turns or draws.random.sample(templates, len(templates))
            template = turns.pop()
            row = self._new_row(template, draws, rows)
            if row is None:
                templates.remove(template)
            else:
                rows[row.user] = row
        return list(rows.values())

    def _new_row(self, template: Any, draws: Draws, known: Mapping[str, Row]) -> Row | None:
        """A row that is not in `known`; None where the template has no other."""
        for _ in range(MOST_TRIES):
            draws.chosen.clear()
            drawn = self.draw(template, draws)
            if drawn is not None and drawn.user not in known:
                return Row(
                    system=self.system,
                    user=drawn.user,
                    reply=drawn.reply,
                    target=drawn.target,
                    template=str(template),
                    entities=frozenset(draws.chosen),
                )
        return None
