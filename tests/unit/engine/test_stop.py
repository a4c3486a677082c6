"""Stop texts: never shown, never missed, and nothing is held back longer than needed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.engine.stop import ReplyText, find_stop, held_length


class Letters:
    """Each id is a piece of the text given at the start."""

    def __init__(self, pieces: list[str], rest: str = "") -> None:
        self.pieces, self.rest = pieces, rest

    def push(self, token_id: int) -> str:
        return self.pieces[token_id]

    def finish(self) -> str:
        return self.rest


def shown(pieces: list[str], stops: tuple[str, ...], rest: str = "") -> tuple[list[str], bool]:
    text = ReplyText(Letters(pieces, rest), stops)
    parts = []
    for token_id in range(len(pieces)):
        parts.append(text.push(token_id))
        if text.stopped:
            return parts, True
    return [*parts, text.finish()], text.stopped


def test_without_stops_text_passes_at_once() -> None:
    assert shown(["ab", "c"], ()) == (["ab", "c", ""], False)


def test_a_possible_beginning_is_held_back_and_shown_when_it_was_none() -> None:
    assert shown(["a<", "/s", "x"], ("</s>",)) == (["a", "", "</sx", ""], False)


def test_a_stop_across_tokens_is_cut_out() -> None:
    assert shown(["hello <", "/", "s> more"], ("</s>",)) == (["hello ", "", ""], True)


def test_the_earliest_of_several_stops_counts() -> None:
    assert shown(["one two three"], ("three", "two")) == (["one "], True)


def test_what_is_held_at_the_end_is_shown() -> None:
    assert shown(["a", "b"], ("bc",)) == (["a", "", "b"], False)
    assert shown(["a", "b"], ("bc",), rest="c") == (["a", "", ""], True)


def test_a_stop_that_overlaps_itself_is_found() -> None:
    parts, stopped = shown(["aa", "a", "b"], ("aab",))
    assert ("".join(parts), stopped) == ("a", True)


@settings(deadline=None, max_examples=300)
@given(
    pieces=st.lists(st.text("ab", max_size=4), max_size=12),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple),
)
def test_pieces_give_what_the_whole_text_gives(pieces: list[str], stops: tuple[str, ...]) -> None:
    parts, stopped = shown(pieces, stops)
    whole = "".join(pieces)
    place = find_stop(whole, stops)
    if stopped:
        ends = [whole.index(stop) + len(stop) for stop in stops if stop in whole]
        seen = "".join(pieces[: len(parts)])
        first = find_stop(seen, stops)
        assert "".join(parts) == seen[:first]
        assert len("".join(pieces[: len(parts) - 1])) < min(ends)  # found with the token that ended it
    else:
        assert place == -1
        assert "".join(parts) == whole
        for upto in range(len(pieces)):
            so_far = "".join(pieces[: upto + 1])
            held = len(so_far) - len("".join(parts[: upto + 1]))
            assert held == held_length(so_far, stops)
