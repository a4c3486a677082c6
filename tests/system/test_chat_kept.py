"""Conversations are kept in the browser: nothing that was said is lost without a question."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from system.page_site import Site, ask, wait_for_bills

pytestmark = pytest.mark.browser

LONG = "word " * 400
REPEATS = 100_000
"""Of nine bytes: the web socket takes a million in one message."""
BLOCKED = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('blocked'); } });"
FULL = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, new_site: Callable[..., Site]) -> Iterator[str]:
    texts = {"reply": "The **answer** with ‘quotes’ \u2028 and 語.", "wordy": LONG, "play-base": " and on"}
    names = [option for name in texts for option in ("--model", name)]
    folder = tmp_path_factory.mktemp("site")
    started = new_site(folder, list(texts.values()), *names, "--each", "--pause", "0.02", "--context", "4096")
    yield started.url
    started.stop()
    started.assert_quiet()


def seen(page: Any) -> dict[str, list[str]]:
    """Everything of the conversation that a reader sees."""
    parts = {"asked": ".asked", "replies": ".reply .prose, .reply .passage", "meters": ".reply .meter"}
    return {name: page.locator(selector).all_inner_texts() for name, selector in parts.items()} | {
        "total": page.locator(".totals").all_inner_texts()
    }


def choose_model(page: Any, name: str) -> None:
    page.get_by_label("Model", exact=True).click()
    page.get_by_role("option", name=name).click()


def test_a_conversation_survives_reload_and_goes_on(served: str, visit: Any) -> None:
    page = visit(served)
    page.locator(".example").first.click()
    wait_for_bills(page)
    ask(page, "More <b>of</b> it\nplease")
    wait_for_bills(page, 2)
    page.wait_for_function("localStorage.length == 1")
    before = seen(page)
    page.reload()
    wait_for_bills(page, 2)
    assert seen(page) == before
    ask(page, "c")
    wait_for_bills(page, 3)
    counts = page.locator(".reply .meter .tokens").all_inner_texts()
    read = [int(count.split(" in")[0]) for count in counts]
    assert read[0] + 10 < read[1] < read[2] - 10, "the model is told what was said before the reload"


def test_a_reply_that_was_cut_off_by_a_reload_is_shown_and_its_cost_asked_for(
    served: str, visit: Any
) -> None:
    page = visit(f"{served}/?model=wordy")
    ask(page, "go")
    page.wait_for_function("document.querySelector('.reply .prose')?.innerText.length > 100")
    page.wait_for_timeout(1_200)
    page.reload()
    page.wait_for_selector("text=The page was closed before this reply ended.")
    assert len(page.locator(".reply .prose").inner_text()) > 50
    page.reload()
    wait_for_bills(page)


def test_another_model_takes_the_conversation_over(served: str, visit: Any) -> None:
    page = visit(served)
    ask(page, "a")
    wait_for_bills(page)
    choose_model(page, "play-base")
    page.wait_for_selector("text=play-base continues text.")
    ask(page, "Once")
    wait_for_bills(page, 2)
    choose_model(page, "reply")
    ask(page, "b")
    wait_for_bills(page, 3)
    assert seen(page)["asked"] == ["a", "b"]
    assert page.locator(".passage").inner_text() == "Once and on"
    page.reload()
    wait_for_bills(page, 3)
    assert seen(page)["asked"] == ["a", "b"]
    assert page.locator(".passage").inner_text() == "Once and on"
    page.wait_for_selector(".model-choice >> text=reply")


def test_a_new_conversation_leaves_the_old_one_to_be_opened_again(served: str, visit: Any) -> None:
    page = visit(served)
    ask(page, "the first")
    wait_for_bills(page)
    page.get_by_label("New conversation").click()
    page.wait_for_selector(".welcome")
    ask(page, "the second")
    wait_for_bills(page)
    page.get_by_label("Conversations", exact=True).click()
    page.get_by_role("button", name="the first").click()
    page.wait_for_function("document.querySelector('.asked')?.innerText == 'the first'")
    other = page.context.new_page()
    other.goto(served)
    other.wait_for_selector("text=Earlier conversations")
    assert other.locator(".earlier-one").all_inner_texts() == ["the second", "the first"]
    other.get_by_text("the second").click()
    other.wait_for_function("document.querySelector('.asked')?.innerText == 'the second'")


def test_deleting_a_conversation_asks_first(served: str, visit: Any) -> None:
    page = visit(served)
    ask(page, "dear to me")
    wait_for_bills(page)
    page.wait_for_function("localStorage.length == 1")
    for answer, left in (("Keep it", 1), ("Delete", 0)):
        page.get_by_label("Conversations", exact=True).click()
        page.get_by_label("Delete this conversation").click()
        page.get_by_role("alertdialog").get_by_role("button", name=answer, exact=True).click()
        page.wait_for_function("!document.querySelector('[role=alertdialog]')")
        page.get_by_label("Close").click()
        page.wait_for_function(f"localStorage.length == {left}")
        assert page.locator(".asked").count() == left
    assert page.locator(".welcome").count() == 1


@pytest.mark.parametrize("trouble", [BLOCKED, FULL], ids=["blocked", "full"])
def test_where_nothing_can_be_kept_leaving_asks_first(trouble: str, served: str, visit: Any) -> None:
    page = visit(served, script=trouble)
    ask(page, "a")
    wait_for_bills(page)
    page.wait_for_selector("text=This browser does not store this conversation")
    page.get_by_label("New conversation").click()
    page.get_by_role("button", name="Stay").click()
    assert page.locator(".asked").count() == 1
    questions: list[str] = []
    page.on("dialog", lambda dialog: (questions.append(dialog.type), dialog.accept()))
    page.reload()
    page.wait_for_selector(".welcome")
    assert questions == ["beforeunload"]


def test_two_tabs_never_write_over_each_other(served: str, visit: Any) -> None:
    """A tab that was duplicated has the same conversation; from there on each keeps its own."""
    page = visit(served)
    ask(page, "shared")
    wait_for_bills(page)
    page.wait_for_function("localStorage.length == 1")
    current = page.evaluate("sessionStorage.getItem('tuition-current')")
    other = page.context.new_page()
    other.add_init_script(f"sessionStorage.getItem('tuition-current') ?? "
                          f"sessionStorage.setItem('tuition-current', '{current}')")  # fmt: skip
    other.goto(served)
    wait_for_bills(other)
    for tab, text in ((page, "mine"), (other, "yours")):
        ask(tab, text)
        wait_for_bills(tab, 2)
    page.wait_for_function("localStorage.length == 2")
    for tab, text in ((page, "mine"), (other, "yours")):
        tab.reload()
        wait_for_bills(tab, 2)
        assert seen(tab)["asked"] == ["shared", text]


def test_what_is_stored_by_somebody_else_breaks_nothing(served: str, visit: Any) -> None:
    page = visit(served)
    page.wait_for_selector(".welcome")
    page.evaluate(
        "for (const [id, turns] of [['x', [1]], ['z', []]]) localStorage.setItem("
        "`tuition-conversation-${id}`, JSON.stringify({ id, turns, saved: 1, title: id, model: 'm' }));"
        "localStorage.setItem('tuition-conversation-y', 'no JSON');"
        "sessionStorage.setItem('tuition-current', 'x')"
    )
    page.reload()
    page.wait_for_selector("text=Earlier conversations")
    page.locator(".earlier-one").click()
    page.wait_for_selector("text=can no longer be read")


def test_a_long_conversation_comes_back_whole(tmp_path: Path, served: str, visit: Any) -> None:
    """Longer than a message of the web socket may be, and with characters of every width."""
    page = visit(served)
    page.wait_for_selector(".welcome")
    ask(page, "a")
    wait_for_bills(page)
    page.wait_for_function("localStorage.length == 1")
    page.evaluate(
        "(() => { const key = Object.keys(localStorage)[0], kept = JSON.parse(localStorage.getItem(key));"
        f"kept.turns[0].asked = '😀語a\\n'.repeat({REPEATS});"
        "localStorage.setItem(key, JSON.stringify(kept)); })()"
    )
    page.reload()
    page.wait_for_function(f"document.querySelector('.asked')?.textContent.length == {5 * REPEATS}")
    assert page.evaluate(f"document.querySelector('.asked').textContent == '😀語a\\n'.repeat({REPEATS})")
