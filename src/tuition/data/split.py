"""Which text is taught, held out, or kept for choosing settings.

In: documents.  Out: `Unit`s, each with its part. The choice hangs on a hash of the text alone: it is the same
on every machine, whatever the order or names of the files, and two copies of a text never land on different
sides.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from tuition.core.errors import DataError, NotFoundError
from tuition.data.documents import Counts, Document, iter_documents
from tuition.data.settings import DataSettings
from tuition.data.sources import Source
from tuition.data.tables import count_rows

Part = Literal["train", "heldout", "validation"]
PARTS: tuple[Part, ...] = ("train", "heldout", "validation")

SplitBy = Literal["titles", "documents", "blocks"]

FEWEST_DOCUMENTS = 20
"""With fewer, one document is too much of the whole to hold out: blocks of text are."""

_SURE_DOCUMENTS = 40
"""Held-out documents to be expected before the hash alone is trusted to choose some."""

_NUM_BLOCKS, _LEAST_BLOCK, _LARGEST_BLOCK = 60, 64, 2**16


@dataclass(frozen=True, slots=True)
class Unit:
    """Text that goes to one part as a whole."""

    part: Part
    text: str
    title: str
    begins: bool
    """False: it continues the unit before it."""


@dataclass(frozen=True)
class SplitPlan:
    """How units are told apart."""

    by: SplitBy
    heldout_below: float = 0.0
    """Units whose hash, from 0 to 1, is below this are held out."""
    validation_below: float = 0.0
    """Of the others, those below this are kept for choosing settings."""
    block_chars: int = 0
    heldout: frozenset[str] = frozenset()
    validation: frozenset[str] = frozenset()

    def part_of(self, title: str, text: str) -> Part:
        if title in self.heldout:
            return "heldout"
        if title in self.validation:
            return "validation"
        place = unit_hash(text)
        if self.by != "titles" and place < self.heldout_below:
            return "heldout"
        return "validation" if place < self.validation_below else "train"


def unit_hash(text: str) -> float:
    """A number from 0 to 1 that depends on the text alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def plan_split(settings: DataSettings, sources: list[Source], total_bytes: int) -> SplitPlan:
    """Choose how to split; reads the documents once more where they are few. Raises: DataError if there is
    too little."""
    share = min(settings.heldout_share, settings.heldout_max_bytes / max(1, total_bytes))
    kept = 0.0 if settings.validation else settings.validation_share
    if settings.heldout:
        below = 0.0
        if kept and _are_sure(sources, kept):
            below = kept
        elif kept:
            named = frozenset(settings.heldout)
            below = _ranked(_hashes(settings, sources, 0, named), 0.0, kept, sources)[1]
        return SplitPlan("titles", 0.0, below, 0, frozenset(settings.heldout), frozenset(settings.validation))
    named = frozenset(settings.validation)
    if _are_sure(sources, min(share, kept or share)):
        return SplitPlan("documents", share, share + kept if kept else 0.0, 0, frozenset(), named)
    hashes = _hashes(settings, sources, 0, named)
    by: SplitBy = "documents"
    block_chars = 0
    if len(set(hashes)) < FEWEST_DOCUMENTS:
        by = "blocks"
        block_chars = min(_LARGEST_BLOCK, max(_LEAST_BLOCK, total_bytes // _NUM_BLOCKS))
        hashes = _hashes(settings, sources, block_chars, named)
    heldout_below, validation_below = _ranked(hashes, share, kept, sources)
    return SplitPlan(by, heldout_below, validation_below, block_chars, frozenset(), named)


def split_units(
    settings: DataSettings, sources: list[Source], plan: SplitPlan, counts: Counts | None = None
) -> Iterator[Unit]:
    """All text with its part. Raises: NotFoundError at the end for titles to hold out that are in no
    document."""
    met: set[str] = set()
    titles: list[str] = []
    last: tuple[str, Part] | None = None
    part: Part = "train"
    for document, text in _blocks(iter_documents(settings, counts, sources), plan.block_chars):
        new = document.part == 0 and (last is None or last[0] != _key(document))
        if new or plan.by == "blocks":
            part = plan.part_of(document.id, text)
        if document.id in plan.heldout or document.id in plan.validation:
            met.add(document.id)
        elif len(titles) < 1_000 and new:
            titles.append(document.id)
        yield Unit(part, text, document.id, begins=last != (_key(document), part))
        last = (_key(document), part)
    for missing in sorted((plan.heldout | plan.validation) - met):
        raise NotFoundError("document", missing, sorted({*titles, *met}))


def _key(document: Document) -> str:
    return f"{document.path}\0{document.line}"


def _blocks(documents: Iterable[Document], block_chars: int) -> Iterator[tuple[Document, str]]:
    """Documents as they are, or cut into blocks at the ends of lines."""
    for document in documents:
        text, begin = document.text, 0
        while block_chars and len(text) - begin > block_chars * 3 // 2:
            end = (text.rfind("\n", begin, begin + block_chars) + 1) or (
                text.rfind(" ", begin, begin + block_chars) + 1
            )
            end = end if end > begin else begin + block_chars
            yield document, text[begin:end]
            begin = end
        yield document, text[begin:] if begin else text


def _hashes(
    settings: DataSettings, sources: list[Source], block_chars: int, named: frozenset[str]
) -> list[float]:
    """Where every unit stands that no title decides about."""
    documents = iter_documents(settings, Counts(), sources)
    return [
        unit_hash(text)
        for document, text in _blocks(documents, block_chars)
        if (document.part == 0 or block_chars) and document.id not in named
    ]


def _ranked(hashes: list[float], share: float, kept: float, sources: list[Source]) -> tuple[float, float]:
    """Bounds that hold out the units with the lowest hashes: about `share` of them, at least one, never
    all."""
    order = sorted(set(hashes))
    num_heldout = max(1, round(share * len(order))) if share else 0
    num_kept = max(1, round(kept * len(order))) if kept else 0
    if len(order) < num_heldout + num_kept + 1:
        where = str(sources[0].path) if sources else "corpus"
        problem = f"holds {len(order)} different pieces of text, too few to hold some out"
        raise DataError(where, problem, way_out="add text, or lower heldout_share")
    after_heldout, after_kept = order[num_heldout], order[num_heldout + num_kept]
    return (after_heldout if num_heldout else 0.0), (after_kept if num_kept else 0.0)


def _are_sure(sources: list[Source], share: float) -> bool:
    """Whether there are so many documents that the hash alone is sure to choose some: none has to be read."""
    least = math.ceil(_SURE_DOCUMENTS / share)
    return _count_documents(sources, least) >= least


def _count_documents(sources: list[Source], enough: int) -> int:
    """How many documents there are, counted up to `enough`."""
    total = 0
    for source in sources:
        if source.kind == "text":
            total += 1
        elif source.kind == "jsonl":
            with open(source.path, "rb") as file:
                while total < enough and (chunk := file.read(2**20)):
                    total += chunk.count(b"\n")
        else:
            total += count_rows(source.path, source.kind, enough - total)
        if total >= enough:
            break
    return total
