"""Sequences that begin with the same tokens, grouped so that each beginning is computed once.

In: sequences of ids.  Out: groups of their places, each with the length of what its members share. The
examples of one file usually have one system prompt; it is often the larger part of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LEAST_SHARED = 8
"""Tokens below which a shared beginning saves less than its own attention costs."""


class Beginning(NamedTuple):
    """Sequences with a common beginning."""

    length: int
    """Tokens that all members share; 0 for one that stands alone."""
    members: tuple[int, ...]
    """Places of the sequences."""


def shared_beginnings(sequences: Sequence[NDArray[np.int32]]) -> list[Beginning]:
    """Groups in which each sequence is once, in the order of their first members.

    A sequence joins its neighbour in alphabetical order where that saves no fewer tokens than the group saves
    without it.
    """
    order = sorted(range(len(sequences)), key=lambda place: sequences[place].astype(">i4").tobytes())
    groups: list[tuple[int, list[int]]] = []
    for place in order:
        ids = sequences[place]
        if groups:
            length, members = groups[-1]
            common = _common(sequences[members[0]][:length], ids)
            if common >= _LEAST_SHARED and len(members) * common >= (len(members) - 1) * length:
                groups[-1] = (common, [*members, place])
                continue
        groups.append((len(ids), [place]))
    made = [
        Beginning(length if len(members) > 1 else 0, tuple(sorted(members))) for length, members in groups
    ]
    return sorted(made, key=lambda group: group.members)


def _common(first: NDArray[np.int32], second: NDArray[np.int32]) -> int:
    """Tokens up to the first difference."""
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length
