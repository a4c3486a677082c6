"""Split a corpus of texts into units, each with its part.

In: `DataSettings` and `Source`s.  Out: `Unit`s: whole documents, or blocks of text where there are too few
documents.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tuition.core.errors import DataError, NotFoundError
from tuition.data.blocks import cut_blocks, identity
from tuition.data.documents import Counts, Document, iter_documents
from tuition.data.settings import DataSettings
from tuition.data.sources import Source
from tuition.data.split import Item, Part, SplitPlan, Tally

SplitBy = Literal["titles", "documents", "blocks"]

FEWEST_DOCUMENTS = 20
"""With fewer, one document is too much of the whole to hold out: blocks of text are."""

_NUM_BLOCKS, _LEAST_BLOCK, _LARGEST_BLOCK = 60, 64, 2**16
_MOST_TITLES = 1_000


@dataclass(frozen=True, slots=True)
class Unit:
    """Text that goes to one part as a whole."""

    part: Part
    text: str
    title: str
    begins: bool
    """False: it continues the unit before it."""


@dataclass(frozen=True)
class UnitPlan:
    """What the units of a corpus are, and which part each is in."""

    by: SplitBy
    split: SplitPlan
    block_bytes: int = 0
    """About so long is a block; 0: units are whole documents."""


def plan_split(settings: DataSettings, sources: list[Source]) -> UnitPlan:
    """Choose how to split, from all usable documents.

    Raises: DataError for text that cannot be used, or too little of it; NotFoundError for named documents
    that are not there.
    """
    counts = Counts()
    tally = _tally(settings, sources, 0, counts)
    if not tally.num_distinct and counts.num_skipped:
        problem = f"all of it was left out ({counts.num_skipped:,} x, like {counts.examples[0]})"
        raise DataError(sources[0].path, problem, way_out="mend it, or name other text")
    kept = 0.0 if settings.validation else settings.validation_share
    if settings.heldout:
        return _chosen("titles", tally, 0, kept * tally.distinct_bytes, 0, sources)
    by: SplitBy = "documents"
    block_bytes, share = 0, settings.heldout_share
    if tally.num_distinct < FEWEST_DOCUMENTS or tally.largest > tally.distinct_bytes / 2:
        by = "blocks"
        block_bytes = min(_LARGEST_BLOCK, max(_LEAST_BLOCK, tally.distinct_bytes // _NUM_BLOCKS))
        tally = _tally(settings, sources, block_bytes)
    num_bytes = tally.distinct_bytes
    heldout_bytes = min(share * num_bytes, settings.heldout_max_bytes)
    return _chosen(by, tally, heldout_bytes, kept * num_bytes, block_bytes, sources)


def split_units(
    settings: DataSettings, sources: list[Source], plan: UnitPlan, counts: Counts | None = None
) -> Iterator[Unit]:
    """All text with its part. Of copies in a part that is scored only one comes, that which is named: a
    second one would make the score look surer than it is."""
    counts = counts if counts is not None else Counts()
    last: Part | None = None
    names = {"heldout": settings.heldout, "validation": settings.validation, "train": ()}
    seen: set[int] = set()
    is_copy = False
    for document, text, begins in _pieces(settings, sources, plan.block_bytes, counts):
        part: Part = last or "train"
        if begins or plan.block_bytes:
            key = identity(text)
            part = plan.split.part_of(key)
            is_unnamed = bool(names[part]) and document.id not in names[part]
            is_copy = part != "train" and (is_unnamed or key in seen)
            if is_copy:
                counts.leave_out(f"copy in the {part} part", document.path, "is there already", document.line)
            elif part != "train":
                seen.add(key)
        if is_copy:
            last = None
            continue
        yield Unit(part, text, document.id, begins=begins or part != last)
        last = part


def _chosen(
    by: SplitBy,
    tally: Tally,
    heldout_bytes: float,
    kept_bytes: float,
    block_bytes: int,
    sources: list[Source],
) -> UnitPlan:
    split = tally.choose(heldout_bytes, kept_bytes)
    if split is None:
        where = str(sources[0].path) if sources else "corpus"
        problem = f"holds {tally.num_distinct} different pieces of text, too few to hold some out"
        way_out = "add text, or name a document to hold out with --data.heldout"
        raise DataError(where, problem, way_out=way_out)
    return UnitPlan(by, split, block_bytes)


def _tally(
    settings: DataSettings, sources: list[Source], block_bytes: int, counts: Counts | None = None
) -> Tally:
    """Count all units. Raises: NotFoundError for named documents that are not there."""
    named: dict[str, Part] = {}
    for title in settings.validation:
        named[title] = "validation"
    for title in settings.heldout:
        named[title] = "heldout"
    known: dict[str, None] = {}
    missing = set(named)

    def items() -> Iterator[Item]:
        key = size = 0
        part: Part | None = None
        for document, text, begins in _pieces(settings, sources, block_bytes, counts):
            num_bytes = len(text) if text.isascii() else len(text.encode())
            if not (begins or block_bytes):
                size += num_bytes
                continue
            if size:
                yield Item(key, size, part)
            key, size = identity(text), num_bytes
            part = named.get(document.id)
            missing.discard(document.id)
            if begins and len(known) < _MOST_TITLES:
                known[document.id] = None
        if size:
            yield Item(key, size, part)

    tally = Tally(items())
    for title in sorted(missing):
        raise NotFoundError("document", title, sorted(known))
    return tally


def _pieces(
    settings: DataSettings, sources: list[Source], block_bytes: int, counts: Counts | None = None
) -> Iterator[tuple[Document, str, bool]]:
    """Pieces of documents as they are, or blocks; and whether a document begins with it."""
    documents = iter_documents(settings, counts, sources)
    if not block_bytes:
        for document in documents:
            yield document, document.text, document.part == 0
        return
    last: tuple[object, ...] | None = None
    for document, text in cut_blocks(documents, block_bytes):
        key = (document.path, document.line)
        yield document, text, key != last
        last = key
