"""Choose which items are taught, which are held out, and which are kept for choosing settings.

In: `Item`s of any kind (documents, blocks of text), counted in a `Tally`.  Out: a `SplitPlan`.
The choice depends on the contents alone: it is the same on every machine, whatever the order or names of the
files, and copies are always in the same part.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Part = Literal["train", "heldout", "validation"]
PARTS: tuple[Part, ...] = ("train", "heldout", "validation")

NUM_HASHES = 2**64

MOST_COUNTED = 2**16
"""Distinct items that a tally holds at least, and so the most that are held out: enough for any score."""


@dataclass(frozen=True, slots=True)
class Item:
    """What goes to one part as a whole."""

    identity: int
    """64-bit hash. Items of one identity go to one part: copies of a content, which it is the hash of, or all
    items of a group that must not be torn apart, if it is the hash of the group's name."""
    size: int
    """Bytes."""
    part: Part | None = None
    """The part that the settings name for it; None: by its hash."""


@dataclass(frozen=True)
class SplitPlan:
    """The part of every item, by its identity: what is in neither set is taught."""

    heldout: frozenset[int] = frozenset()
    validation: frozenset[int] = frozenset()
    """What is also in `heldout` is held out."""

    def part_of(self, identity: int) -> Part:
        if identity in self.heldout:
            return "heldout"
        return "validation" if identity in self.validation else "train"


class Tally:
    """Counts distinct items and their bytes. One for each label of the items gives a stratified split.

    Memory is bounded: of very many distinct items only those with the lowest hashes are kept, and the numbers
    of all are estimated from them.
    """

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self.num_bytes = 0
        """Of all items, copies included."""
        self.largest = 0
        """Bytes of the largest item."""
        self._named: dict[Part, set[int]] = {part: set() for part in PARTS}
        self._sizes: dict[int, int] = {}
        self._copied: dict[int, int] = {}  # bytes of the second and later copies
        self._bound = NUM_HASHES  # identities from here on are not kept
        for item in items:
            self.add(item)

    def add(self, item: Item) -> None:
        """Count one item. The order in which items come does not matter."""
        self.num_bytes += item.size
        if item.part is not None:
            self._named[item.part].add(item.identity)
            return
        self.largest = max(self.largest, item.size)
        if item.identity >= self._bound:
            return
        if item.identity in self._sizes:
            self._copied[item.identity] = self._copied.get(item.identity, 0) + item.size
            return
        self._sizes[item.identity] = item.size
        if len(self._sizes) > 2 * MOST_COUNTED:
            self._bound = sorted(self._sizes)[MOST_COUNTED]
            self._sizes = {key: size for key, size in self._sizes.items() if key < self._bound}
            self._copied = {key: size for key, size in self._copied.items() if key < self._bound}

    @property
    def num_distinct(self) -> int:
        """Distinct items that are not named."""
        return round(len(self._free()) * NUM_HASHES / self._bound)

    @property
    def distinct_bytes(self) -> int:
        """Bytes of the distinct items that are not named, each counted once."""
        return round(sum(self._sizes[key] for key in self._free()) * NUM_HASHES / self._bound)

    def choose(self, heldout_bytes: float, validation_bytes: float) -> SplitPlan | None:
        """Hold out items of about these bytes, at least one where more than 0 is wanted, and what is named.

        None: there are too few items to do that and to teach something.
        """
        free = sorted(self._free())
        num_parts = (heldout_bytes > 0) + (validation_bytes > 0)
        if len(free) <= num_parts:
            return None
        heldout = self._take(free, heldout_bytes, len(free) - num_parts)
        rest = [identity for identity in free if identity not in heldout]
        validation = self._take(rest, validation_bytes, len(rest) - 1)
        return SplitPlan(
            frozenset(self._named["heldout"] | heldout), frozenset(self._named["validation"] | validation)
        )

    def _take(self, order: list[int], target: float, most: int) -> set[int]:
        """The first of `order` that have about `target` bytes together, at most `most` of them."""
        if target <= 0:
            return set()
        most_bytes = 2 * target
        most_share = most_bytes / max(1, self.distinct_bytes)
        taken: set[int] = set()
        size = 0
        for identity in order:
            if size >= target or len(taken) == most:
                break
            # an item with many copies, or a very large one, would take most of the text from teaching
            share = self._weight(identity)[0] / max(1, self.num_bytes)
            if size + self._sizes[identity] <= most_bytes and share <= most_share:
                taken.add(identity)
                size += self._sizes[identity]
        return taken or {min(order, key=self._weight)}

    def _free(self) -> set[int]:
        """Identities that no name decides about."""
        return self._sizes.keys() - self._named["heldout"] - self._named["validation"]

    def _weight(self, identity: int) -> tuple[int, int]:
        """Bytes with all copies; the hash decides among equals."""
        return self._sizes[identity] + self._copied.get(identity, 0), identity
