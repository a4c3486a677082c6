"""Examples as the model will see them: ids, with the tokens that are taught, split into two parts.

In: `ExampleSettings`, the model's tokenizer, the longest sequence.  Out: `Lessons`.
"""

import hashlib
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np

from tuition.core.errors import DataError, RequestError, shown_path
from tuition.core.progress import Progress, SilentProgress
from tuition.data.examples import Example, ReadingLog, Style, read_examples
from tuition.data.readers import BadInput
from tuition.data.settings import ExampleSettings
from tuition.data.split import PARTS, Item, Part, Tally
from tuition.tokenizer.folder import TOOL_TEMPLATE
from tuition.tokenizer.taught import Taught, taught_conversation, taught_pair
from tuition.tokenizer.tokenizer import Tokenizer

_MOST_NAMED = 5


@dataclass
class LessonCounts:
    """How many examples were cut, left out or found twice."""

    num_examples: int = 0
    """Of both parts."""
    num_cut: int = 0
    """Ended early, at the end of a turn."""
    num_left_out: int = 0
    """Too long, and left out."""
    lengths: list[int] = field(default_factory=list)
    """Tokens of every example, before it was cut; fewer of one that is far too long."""
    first_too_long: str = ""
    num_with_tools: int = 0
    """Shown by a chat template of the model's own for tools."""
    num_duplicates: int = 0
    """Second and later copies in the part that is taught. They are kept."""
    num_heldout_copies: int = 0
    """Second and later copies in the held-out part. They are left out."""
    num_leaked: int = 0
    """Examples that are also held out. They are not taught."""
    leaked: list[str] = field(default_factory=list)
    """File and line of the first of them."""

    @property
    def num_too_long(self) -> int:
        return self.num_cut + self.num_left_out


@dataclass(frozen=True, eq=False)
class Lesson:
    """One example as one or more sequences, cut to what fits."""

    origin: str
    """File and line."""
    identity: int
    """Copies of an example have the same."""
    group: str | None
    num_bytes: int
    sequences: tuple[Taught, ...]
    cut_tokens: int = 0
    """Tokens that were cut off."""

    @property
    def num_tokens(self) -> int:
        return sum(len(sequence.ids) for sequence in self.sequences)

    @property
    def key(self) -> int:
        """Key of the split: hash of the group, or else of the content."""
        if self.group is None:
            return self.identity
        return int.from_bytes(hashlib.blake2b(self.group.encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True, eq=False)
class Lessons:
    """What is taught, and what is held out."""

    train_examples: tuple[Lesson, ...]
    heldout_examples: tuple[Lesson, ...]
    split: str
    """What was held out and how, one line."""
    style: Style
    counts: LessonCounts
    log: ReadingLog

    @cached_property
    def train(self) -> tuple[Taught, ...]:
        """The sequences to teach."""
        return tuple(sequence for lesson in self.train_examples for sequence in lesson.sequences)

    @cached_property
    def heldout(self) -> tuple[Taught, ...]:
        """The sequences to measure with."""
        return tuple(sequence for lesson in self.heldout_examples for sequence in lesson.sequences)

    @property
    def num_taught(self) -> int:
        """Taught tokens of one epoch."""
        return sum(int(sequence.taught.sum()) for sequence in self.train)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all ids and masks, 64 hex digits."""
        whole = hashlib.sha256()
        for part in (self.train, self.heldout):
            whole.update(b"part")
            for sequence in part:
                whole.update(np.int64(len(sequence.ids)).tobytes())
                whole.update(sequence.ids.astype("<i4").tobytes() + sequence.taught.tobytes())
        return whole.hexdigest()

    def describe(self) -> list[str]:
        """Messages for the user, one line each."""
        counts = self.counts
        lines = [
            f"data prepared: {len(self.train_examples):,} examples, {self.num_taught:,} tokens to teach; "
            f"{self.split}"
        ]
        notes = (
            (counts.num_with_tools, f"with tools, shown by the model's chat template {TOOL_TEMPLATE!r}"),
            (counts.num_cut, "cut at the end of a turn (--data.too-long)"),
            (counts.num_left_out, "too long, left out (--data.too-long)"),
            (self.log.num_trimmed, "cut after the assistant's last turn: what follows is not taught"),
            (counts.num_duplicates, "copies of others, taught as often as they come"),
            (counts.num_heldout_copies, "copies in the held-out part, left out"),
        )
        lines += [
            f"{number:,} of {counts.num_examples:,} examples: {text}" for number, text in notes if number
        ]
        if counts.num_leaked:
            named = "; ".join(counts.leaked) + (", ..." if counts.num_leaked > len(counts.leaked) else "")
            lines.append(f"{counts.num_leaked:,} examples are also held out and are not taught: {named}")
        skipped = self.log.counts
        if skipped.num_skipped:
            reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(skipped.skipped.items()))
            lines.append(f"left out: {skipped.num_skipped:,} rows ({reasons}), like {skipped.examples[0]}")
        return lines


def prepare_lessons(
    settings: ExampleSettings,
    tokenizer: Tokenizer,
    longest: int,
    progress: Progress | None = None,
    now: datetime | None = None,
    needs_heldout: bool = True,
) -> Lessons:
    """Read, render and split what `settings` name. `longest`: tokens of a sequence that fit. `now`: the time
    that a template may write; the same time gives the same lessons. `needs_heldout`: too few examples to hold
    some out are an error.

    Raises: DataError, SettingsError, ModelError.
    """
    reporter = progress or SilentProgress()
    style: Style = "chat" if tokenizer.chat is not None and settings.template == "auto" else "plain"
    maker = _Maker(settings, tokenizer, longest, style, reporter, now or datetime.now())
    every = maker.lessons(settings.paths)
    try:
        train, heldout, how = _split(settings, maker, every)
    except _TooFewError as error:
        if needs_heldout:
            raise
        train, heldout, how = every, [], error.problem
    heldout = _distinct(heldout, maker.counts)
    train = _not_heldout(train, heldout, maker.counts)
    for part, word, paths in (
        (train, "teach", settings.paths),
        (heldout, "hold out", settings.heldout_paths or settings.paths),
    ):
        if not part and (needs_heldout or word == "teach"):
            way_out = "add examples that are not in the other part"
            raise DataError(_shown(paths), f"leaves nothing to {word}", way_out=way_out)
    split = f"{len(heldout):,} of {len(heldout) + len(train):,} examples held out, {how}"
    lessons = Lessons(tuple(train), tuple(heldout), split, style, maker.counts, maker.log)
    for line in lessons.describe():
        reporter.say(line)
    return lessons


@dataclass
class _Maker:
    """Makes lessons of examples, and counts what happens to them."""

    settings: ExampleSettings
    tokenizer: Tokenizer
    longest: int
    style: Style
    progress: Progress
    now: datetime
    counts: LessonCounts = field(default_factory=LessonCounts)
    log: ReadingLog = field(default_factory=ReadingLog)

    def lessons(self, paths: tuple[Path, ...]) -> list[Lesson]:
        """Lessons of all examples that fit. Raises: DataError where some are too long and that is refused,
        or none is left."""
        lessons, before = [], self.counts.num_examples
        examples = read_examples(self.settings, paths, style=self.style, log=self.log, progress=self.progress)
        for example in examples:
            try:
                sequences = self._render(example)
            except RequestError as error:
                bad = BadInput("refused by the template", str(error))
                self.log.leave_out(bad, example.path, example.line, self.settings)
                continue
            self.counts.num_examples += 1
            lesson = self._fitted(example, sequences)
            if lesson is not None:
                lessons.append(lesson)
        self._check(paths, len(lessons), self.counts.num_examples - before)
        return lessons

    def _render(self, example: Example) -> tuple[Taught, ...]:
        """Raises: RequestError, ModelError."""
        if example.messages:
            self.counts.num_with_tools += bool(example.tools) and self.tokenizer.tool_chat is not None
            return taught_conversation(
                self.tokenizer,
                example.messages,
                tools=example.tools or None,
                now=self.now,
                longest=self.longest,
            )
        prompt, completion = example.prompt or "", example.completion or ""
        return (taught_pair(self.tokenizer, prompt, completion, self.longest),)

    def _fitted(self, example: Example, sequences: tuple[Taught, ...]) -> Lesson | None:
        """The lesson, cut to what fits if that is asked for; None if nothing of it is left."""
        counts, most = self.counts, max(len(sequence.ids) for sequence in sequences)
        counts.lengths.append(most)
        kept = sequences
        if most > self.longest:
            counts.first_too_long = counts.first_too_long or example.origin
            cut = (cut_at_turn(sequence, self.longest) for sequence in sequences)
            kept = tuple(c for c in cut if c is not None) if self.settings.too_long == "cut" else ()
            counts.num_cut += bool(kept)
            counts.num_left_out += not kept
        if not kept:
            return None
        lesson = Lesson(example.origin, example.identity, example.group, example.num_bytes, kept)
        return replace(lesson, cut_tokens=sum(len(s.ids) for s in sequences) - lesson.num_tokens)

    def _check(self, paths: tuple[Path, ...], num_lessons: int, num_examples: int) -> None:
        """Raises: DataError."""
        counts, place = self.counts, _shown(paths)
        if counts.num_too_long and self.settings.too_long == "refuse":
            problem = (
                f"{counts.num_too_long:,} of {num_examples:,} examples have more than {self.longest:,} tokens"
                f" (the longest at least {max(counts.lengths):,}; the first is {counts.first_too_long})"
            )
            way_out = "--data.too-long cut ends them at a turn that fits, leave-out drops them"
            raise DataError(place, problem, way_out=way_out)
        if num_lessons:
            return
        if num_examples:
            problem = f"no example has a turn of the assistant within {self.longest:,} tokens"
            raise DataError(place, problem, way_out="take a longer context, or shorter examples")
        skipped = f" ({self.log.counts.examples[0]})" if self.log.counts.examples else ""
        raise DataError(place, f"holds no example that can be used{skipped}", way_out="mend its rows")


def _shown(paths: tuple[Path, ...]) -> str:
    """The first path, for a message."""
    return shown_path(paths[0]) + (" and others" if len(paths) > 1 else "")


def cut_at_turn(sequence: Taught, longest: int) -> Taught | None:
    """The sequence cut after the last taught turn that ends within `longest` tokens; None if no turn does."""
    fitting = sequence.turns[sequence.turns <= longest]
    if not len(fitting):
        return None
    end = int(fitting[-1])
    return Taught(sequence.ids[:end], sequence.taught[:end], fitting)


class _TooFewError(DataError):
    """There are too few examples to hold some out."""


def _split(
    settings: ExampleSettings, maker: _Maker, lessons: list[Lesson]
) -> tuple[list[Lesson], list[Lesson], str]:
    """Examples to teach, examples to hold out, and how these were chosen. Raises: _TooFewError."""
    if settings.heldout_paths:
        return lessons, maker.lessons(settings.heldout_paths), f"those in {_shown(settings.heldout_paths)}"
    tally = Tally(Item(lesson.key, lesson.num_bytes) for lesson in lessons)
    share = min(settings.heldout_share, settings.heldout_max / max(1, tally.num_distinct))
    plan = tally.choose(share * tally.distinct_bytes, 0)
    field_name = settings.group_field
    if plan is None:
        what = "different examples" if field_name is None else f"different values of {field_name!r}"
        problem = f"too few to hold some out ({what}: {tally.num_distinct})"
        way_out = "add examples, or name others to hold out with --data.heldout-paths"
        raise _TooFewError(_shown(settings.paths), problem, way_out=way_out)
    parts: dict[Part, list[Lesson]] = {part: [] for part in PARTS}
    for lesson in lessons:
        parts[plan.part_of(lesson.key)].append(lesson)
    by = "a hash of their content" if field_name is None else f"a hash of their field {field_name!r}"
    return parts["train"], parts["heldout"], f"chosen by {by}"


def _distinct(heldout: list[Lesson], counts: LessonCounts) -> list[Lesson]:
    """Each held-out example once: a second copy would make the standard error too small."""
    first = {lesson.identity: lesson for lesson in reversed(heldout)}
    kept = [lesson for lesson in heldout if first[lesson.identity] is lesson]
    counts.num_heldout_copies = len(heldout) - len(kept)
    return kept


def _not_heldout(train: list[Lesson], heldout: list[Lesson], counts: LessonCounts) -> list[Lesson]:
    """The examples that are not held out too. Copies among them are counted, and stay."""
    held = {lesson.identity for lesson in heldout}
    leaked = [lesson for lesson in train if lesson.identity in held]
    kept = [lesson for lesson in train if lesson.identity not in held]
    counts.num_leaked = len(leaked)
    counts.leaked = [lesson.origin for lesson in leaked[:_MOST_NAMED]]
    counts.num_duplicates = len(kept) - len({lesson.identity for lesson in kept})
    return kept
