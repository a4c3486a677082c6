"""Sequences that begin alike are grouped; those that do not stay alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tuition.data.beginnings import Beginning, shared_beginnings


def grouped(*sequences: list[int]) -> list[Beginning]:
    return shared_beginnings([np.array(sequence, dtype=np.int32) for sequence in sequences])


PROMPT = list(range(100, 120))
OTHER = list(range(200, 220))


def test_examples_of_one_prompt_share_it() -> None:
    assert grouped([*PROMPT, 1], [*PROMPT, 2, 3], [*PROMPT]) == [(20, (0, 1, 2))]


def test_each_prompt_has_its_group() -> None:
    """The first tokens, which all prompts of a template have in common, do not join them."""
    template = list(range(10))
    assert grouped(
        [*template, *PROMPT, 1], [*template, *OTHER, 1], [*template, *PROMPT, 2], [*template, *OTHER, 2]
    ) == [(30, (0, 2)), (30, (1, 3))]


def test_neighbours_that_agree_a_little_longer_do_not_leave_the_others() -> None:
    assert grouped([*PROMPT, 5, 6, 1], [*PROMPT, 5, 6, 2], [*PROMPT, 9]) == [(20, (0, 1, 2))]


def test_a_few_common_tokens_are_not_shared() -> None:
    assert grouped([1, 2, 3, 4], [1, 2, 3, 5], []) == [(0, (0,)), (0, (1,)), (0, (2,))]


def test_copies_share_everything() -> None:
    assert grouped(PROMPT, PROMPT) == [(20, (0, 1))]


@given(st.lists(st.lists(st.integers(0, 1), max_size=14), max_size=20))
def test_every_sequence_is_in_one_group_and_begins_with_what_it_shares(sequences: list[list[int]]) -> None:
    groups = grouped(*sequences)
    assert sorted(place for group in groups for place in group.members) == list(range(len(sequences)))
    for group in groups:
        beginnings = {tuple(sequences[place][: group.length]) for place in group.members}
        assert len(beginnings) == 1
        assert len(next(iter(beginnings))) == group.length
