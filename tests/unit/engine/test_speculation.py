"""Guesses: where they come from, and when they stop."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.engine.speculation import LONGEST, SHORTEST, PromptLookup, look_up


def plain_look_up(tokens: list[int], most: int) -> list[int]:
    """The rule written out."""
    for size in range(LONGEST, SHORTEST - 1, -1):
        end = tokens[-size:]
        places = [i for i in range(len(tokens) - size) if tokens[i : i + size] == end]
        if len(tokens) > size and places:
            full = [i for i in places if i + size + most <= len(tokens)]
            start = (full[-1] if full else places[0]) + size
            return tokens[start : start + most]
    return []


@settings(deadline=None, max_examples=300)
@given(tokens=st.lists(st.integers(0, 3), min_size=1, max_size=40), most=st.integers(1, 8))
def test_a_guess_is_what_followed_the_same_words_before(tokens: list[int], most: int) -> None:
    assert look_up(np.array(tokens, np.int32), most).tolist() == plain_look_up(tokens, most)


def test_nothing_is_guessed_from_a_text_without_repeats() -> None:
    assert len(look_up(np.arange(100, dtype=np.int32), 6)) == 0


def run(gate: PromptLookup, steps: int, plain_ns: int, guessing_ns: int, yielded: int) -> float:
    """Share of steps that guessed, in the second half."""
    guessed = []
    for _ in range(steps):
        pays = gate.pays(4)
        gate.learn(4, 12 if pays else 0, 4 * yielded if pays else 4, guessing_ns if pays else plain_ns)
        guessed.append(pays)
    return float(np.mean(guessed[steps // 2 :]))


def test_guessing_goes_on_where_it_pays() -> None:
    assert run(PromptLookup(), 400, plain_ns=100, guessing_ns=150, yielded=3) > 0.9


def test_guessing_stops_where_it_does_not_pay() -> None:
    assert run(PromptLookup(), 400, plain_ns=100, guessing_ns=300, yielded=2) < 0.1


def test_the_choice_follows_a_change() -> None:
    gate = PromptLookup()
    assert run(gate, 400, plain_ns=100, guessing_ns=300, yielded=1) < 0.1
    assert run(gate, 3000, plain_ns=100, guessing_ns=110, yielded=4) > 0.9


def test_batch_sizes_are_judged_apart() -> None:
    gate = PromptLookup()
    run(gate, 400, plain_ns=100, guessing_ns=300, yielded=1)
    assert gate.pays(64)
