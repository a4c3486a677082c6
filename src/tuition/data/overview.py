"""What a model will see of a data set: the first rows with their taught tokens, the lengths, and what is left
out.

In: settings and the model's tokenizer.  Out: `Overview`, for people and as JSON.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from tuition.core.progress import Progress
from tuition.data.corpus import Corpus, prepare_corpus
from tuition.data.lessons import Lessons, prepare_lessons
from tuition.data.settings import DataSettings, ExampleSettings
from tuition.data.shards import PartWriter, TokenSet
from tuition.tokenizer.tokenizer import Tokenizer

_SHOWN_TOKENS = 256
"""Of a document of plain text."""


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens that are all taught, or all not taught."""

    text: str
    taught: bool


@dataclass(frozen=True)
class Row:
    """An example or a document as the model will see it."""

    origin: str
    num_tokens: int
    num_taught: int
    cut_tokens: int
    """Tokens that are cut off or not shown."""
    sequences: tuple[tuple[Run, ...], ...]
    """One sequence, unless the template shows earlier turns differently from how they were generated."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of a row, over all rows."""

    median: int
    p95: int
    longest: int

    @classmethod
    def of(cls, numbers: Iterable[int]) -> "Lengths":
        values = np.fromiter(numbers, dtype=np.int64)
        median, p95, longest = np.percentile(values, (50, 95, 100), method="inverted_cdf")
        return cls(int(median), int(p95), int(longest))


@dataclass(frozen=True)
class Overview:
    """What is taught of some data."""

    kind: str
    """conversations, plain pairs, or text"""
    forms: dict[str, list[str]]
    """Files by the form of their rows."""
    num_train: int
    num_heldout: int
    split: str
    """What was held out and how."""
    train_tokens: int
    """Tokens of the part that is taught, in one epoch."""
    taught_tokens: int
    """Tokens of these that are targets of the loss."""
    context: int
    """Most tokens of a row."""
    lengths: Lengths
    """Before anything is cut; of an example that is far too long, those of its beginning."""
    num_too_long: int
    """Longer than the context."""
    num_cut: int
    num_left_out: int
    num_trimmed: int
    """Conversations that continued after the assistant's last turn."""
    num_duplicates: int | None
    """Copies in the part that is taught; None: not counted."""
    num_heldout_copies: int | None
    """Copies in the held-out part, which are left out; None: not counted."""
    num_leaked: int | None
    """Rows that are also held out, and so are not taught; None: not counted."""
    leaked: tuple[str, ...]
    """The first of them."""
    num_skipped: int
    """Rows that cannot be used."""
    skipped: dict[str, int]
    """Their number by reason."""
    rows: tuple[Row, ...]
    """The first ones."""


def example_overview(
    settings: ExampleSettings, tokenizer: Tokenizer, context: int, num_rows: int, progress: Progress
) -> Overview:
    """The overview of examples. It is less strict than training, so that the user can see everything:
    examples that are too long are cut where the settings refuse them, and there may be too few to hold some
    out.

    Raises: as `prepare_lessons`.
    """
    too_long = "cut" if settings.too_long == "refuse" else settings.too_long
    seen = replace(settings, too_long=too_long)
    lessons = prepare_lessons(seen, tokenizer, context, progress, needs_heldout=False)
    counts = lessons.counts
    return Overview(
        kind="conversations" if lessons.style == "chat" else "plain pairs",
        forms=lessons.log.forms,
        num_train=len(lessons.train_examples),
        num_heldout=len(lessons.heldout_examples),
        split=lessons.split,
        train_tokens=sum(len(sequence.ids) for sequence in lessons.train),
        taught_tokens=lessons.num_taught,
        context=context,
        lengths=Lengths.of(counts.lengths),
        num_too_long=counts.num_cut + counts.num_left_out,
        num_cut=counts.num_cut,
        num_left_out=counts.num_left_out,
        num_trimmed=lessons.log.num_trimmed,
        num_duplicates=counts.num_duplicates,
        num_heldout_copies=counts.num_heldout_copies,
        num_leaked=counts.num_leaked,
        leaked=tuple(counts.leaked),
        num_skipped=lessons.log.counts.num_skipped,
        skipped=dict(lessons.log.counts.skipped),
        rows=tuple(_lesson_rows(lessons, tokenizer, num_rows)),
    )


def text_overview(
    settings: DataSettings,
    tokenizer: Tokenizer,
    context: int,
    num_rows: int,
    folder: Path,
    progress: Progress,
) -> Overview:
    """Of plain text, which is prepared in `folder` as for training. Raises: as `prepare_corpus`."""
    corpus = prepare_corpus(settings, tokenizer, folder, progress)
    train = corpus.train
    lengths = np.diff(np.append(train.document_starts, train.num_tokens))
    return Overview(
        kind="text",
        forms={"plain text": [path.name for path in settings.paths]},
        num_train=train.info.num_documents,
        num_heldout=corpus.heldout.info.num_documents,
        split=corpus.describe_split(),
        train_tokens=train.num_tokens,
        taught_tokens=train.num_tokens - 1,
        context=context,
        lengths=Lengths.of(lengths),
        num_too_long=0,
        num_cut=0,
        num_left_out=0,
        num_trimmed=0,
        num_duplicates=None,
        num_heldout_copies=None,
        num_leaked=None,
        leaked=(),
        num_skipped=corpus.counts.num_skipped,
        skipped=dict(corpus.counts.skipped),
        rows=tuple(_document_rows(train, corpus, tokenizer, context, num_rows)),
    )


def _lesson_rows(lessons: Lessons, tokenizer: Tokenizer, num_rows: int) -> Iterable[Row]:
    for lesson in lessons.train_examples[:num_rows]:
        yield Row(
            lesson.origin,
            lesson.num_tokens,
            sum(int(sequence.taught.sum()) for sequence in lesson.sequences),
            lesson.cut_tokens,
            tuple(runs_of(tokenizer, sequence.ids, sequence.taught) for sequence in lesson.sequences),
        )


def _document_rows(
    train: TokenSet, corpus: Corpus, tokenizer: Tokenizer, context: int, num_rows: int
) -> Iterable[Row]:
    """The beginnings of the first documents: the first token of a document is not predicted."""
    titles = train.info.titles
    is_named = corpus.split_by != "blocks" and len(titles) in (
        train.info.num_documents,
        PartWriter.max_titles,
    )
    for index in range(min(num_rows, train.info.num_documents)):
        ids = np.asarray(train.document(index))
        shown = ids[: min(context, _SHOWN_TOKENS)].astype(np.int64)
        taught = np.ones(len(shown), dtype=bool)
        taught[0] = False
        origin = titles[index] if is_named and index < len(titles) else f"part {index + 1}"
        runs = runs_of(tokenizer, shown, taught)
        yield Row(origin, len(ids), len(ids) - 1, len(ids) - len(shown), (runs,))


def runs_of(tokenizer: Tokenizer, ids: np.ndarray, taught: np.ndarray) -> tuple[Run, ...]:
    """The text of a sequence as runs, with its special tokens."""
    edges = [0, *(np.flatnonzero(np.diff(taught.astype(np.int8))) + 1).tolist(), len(ids)]
    decoder = tokenizer.stream(skip_specials=False)
    texts = [decoder.push_all(ids[begin:end].tolist()) for begin, end in pairwise(edges)]
    texts[-1] += decoder.finish()
    return tuple(Run(text, bool(taught[begin])) for text, begin in zip(texts, edges, strict=False) if text)
