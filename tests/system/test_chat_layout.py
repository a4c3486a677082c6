"""What the page says fits together, on a phone as on a desk: one message for one thing, nothing covered."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from system.page_site import Site, ask, wait_for_bills

pytestmark = pytest.mark.browser

SIZES = [{"width": 360, "height": 700}, {"width": 1200, "height": 760}]
REPLY = "First.\n\nSecond, and **more** of it."


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, new_site: Callable[..., Site]) -> Iterator[Site]:
    started = new_site(tmp_path_factory.mktemp("site"), [REPLY], "--model", "a-model-with-a-long-name")
    yield started
    started.stop()
    started.assert_quiet()


@pytest.fixture(params=SIZES, ids=["phone", "desk"])
def page(request: Any, served: Site, visit: Any) -> Any:
    opened = visit(served.url, viewport=request.param)
    opened.wait_for_selector(".welcome")
    return opened


def boxes(page: Any, *selectors: str) -> list[dict[str, float]]:
    return [page.locator(selector).first.bounding_box() for selector in selectors]


def apart(one: dict[str, float], other: dict[str, float]) -> bool:
    return (
        one["x"] + one["width"] <= other["x"]
        or other["x"] + other["width"] <= one["x"]
        or one["y"] + one["height"] <= other["y"]
        or other["y"] + other["height"] <= one["y"]
    )


def inside(box: dict[str, float], page: Any) -> bool:
    size = page.viewport_size
    return box["x"] >= 0 and box["y"] >= 0 and box["x"] + box["width"] <= size["width"] + 1 and (
        box["y"] + box["height"] <= size["height"] + 1
    )  # fmt: skip


def test_a_message_that_is_too_long_is_told_in_one_sentence_that_can_be_seen(page: Any) -> None:
    ask(page, "a")
    wait_for_bills(page)
    ask(page, "word " * 3_000)
    page.wait_for_selector(".notice")
    told = page.locator(".notice").inner_text()
    assert told.startswith("This message is too long for a-model-with-a-long-name, which reads at most 512")
    assert page.locator(".remark").count() == 0, "nothing was left out: nothing was answered"
    assert page.locator(".reply").nth(1).locator(".meter").inner_text() == ""
    assert page.locator(".composer textarea").input_value().startswith("word"), "it can be shortened there"
    page.wait_for_timeout(300)
    notice, dock = boxes(page, ".notice", ".composer-box")
    assert inside(notice, page)
    assert apart(notice, dock)


def test_the_figures_under_replies_add_up_to_the_total(page: Any) -> None:
    for number in (1, 2):
        ask(page, "a")
        wait_for_bills(page, number)
    counts = [text.split(" in, ") for text in page.locator(".reply .meter .tokens").all_inner_texts()]
    read, written = (
        sum(int(count[side].removesuffix(" out")) for count in counts) for side in (0, 1)
    )  # fmt: skip
    page.wait_for_selector(f"text=Total: {read} in, {written} out")


def test_the_settings_are_whole_on_every_screen(page: Any) -> None:
    page.get_by_label("Settings").click()
    page.wait_for_timeout(500)
    (menu,) = boxes(page, ".settings")
    assert inside(menu, page)
    assert page.evaluate("(e => e.scrollWidth <= e.clientWidth)(document.querySelector('.settings'))")
    assert page.evaluate("(e => e.scrollWidth <= e.clientWidth)(document.querySelector('.q-menu'))")


def test_the_bar_is_one_line_on_every_screen(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    centers = [
        box["y"] + box["height"] / 2 for box in boxes(page, ".wordmark", ".model-choice", ".icon-button")
    ]
    assert max(centers) - min(centers) < 4
    assert page.locator(".wordmark").bounding_box()["height"] < 32


@pytest.mark.parametrize("size", SIZES, ids=["phone", "desk"])
def test_a_lost_connection_is_told_and_covers_neither_composer_nor_menu(
    size: dict[str, int], tmp_path: Path, new_site: Callable[..., Site], visit: Any
) -> None:
    served = new_site(tmp_path, [REPLY])
    page = visit(served.url, viewport=size)
    ask(page, "a")
    wait_for_bills(page)
    served.stop()
    page.wait_for_selector("#popup[aria-hidden=false]")
    page.wait_for_timeout(3_000)
    popup, composer, bar = boxes(page, "#popup", ".composer", ".bar")
    assert inside(popup, page)
    assert apart(popup, composer)
    assert apart(popup, bar)


def test_the_sign_in_page_is_made_for_phones(
    tmp_path: Path, new_site: Callable[..., Site], visit: Any
) -> None:
    served = new_site(tmp_path, [REPLY], "--key", "a-key")
    try:
        told = httpx.get(served.url, headers={"accept": "text/html"}).text
        assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in told
        page = visit(served.url, viewport=SIZES[0])
        assert inside(page.locator("form").bounding_box(), page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    finally:
        served.stop()


def test_pages_that_nobody_looks_at_any_more_are_released(
    tmp_path: Path, new_site: Callable[..., Site], browser: Any
) -> None:
    """Their descriptors at once, also of visitors who fetch the page and never open its web socket."""
    served = new_site(tmp_path, [REPLY])
    try:
        httpx.get(served.url)
        before = num_descriptors(served)
        for _ in range(60):
            assert httpx.get(served.url).status_code == 200
        for _ in range(4):
            page = browser.new_page()
            page.goto(served.url)
            page.wait_for_selector(".welcome")
            page.close()
        page = browser.new_page()
        page.wait_for_timeout(6_000)  # idle connections to the server itself are closed after 5 s
        page.close()
        assert num_descriptors(served) <= before + 10
    finally:
        served.stop()


def num_descriptors(served: Site) -> int:
    return len(os.listdir(f"/proc/{served.process.pid}/fd"))
