"""Are these words, and are they the model's own?"""

from tuition.evals.sample_quality import TaughtText, sample_quality, words_of

TEXT = TaughtText(["The quick brown fox jumps over the lazy dog.", "The lazy king sleeps."])


def test_words_keep_inner_apostrophes_and_lose_case_and_digits() -> None:
    assert words_of("'Tis the King's 3 crowns, O’er all!") == [
        "tis",
        "the",
        "king's",
        "crowns",
        "o'er",
        "all",
    ]


def test_share_of_known_words() -> None:
    found = sample_quality(["The king grooped.", "brown"], TEXT)
    assert (found.num_words, found.known_share) == (4, 0.75)
    assert found.unknown_words == ("grooped",)


def test_the_longest_copied_run_is_found_inside_a_sample() -> None:
    found = sample_quality(["so quick brown fox jumps over a dog", "the lazy dog"], TEXT)
    assert found.longest_copied_words == 5
    assert found.longest_copied_text == "quick brown fox jumps over"


def test_no_run_crosses_from_one_document_into_the_next() -> None:
    assert sample_quality(["lazy dog the lazy king"], TEXT).longest_copied_words == 3


def test_nothing_written_is_not_good() -> None:
    assert sample_quality([""], TEXT).known_share == 0.0
