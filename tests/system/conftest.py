"""Fixtures of the browser tests: Chromium, servers that log nothing above INFO, pages that stay local."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from forge import Forge
from system.page_site import Site

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 15_000
CUT_OFF = "stream ended with overloaded"
"""What a server says of a reply that its own end has cut off."""


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def new_site(forge: Forge) -> Callable[..., Site]:
    """Starts one server; who starts it ends it."""
    return partial(Site, forge)


@pytest.fixture
def site(new_site: Callable[..., Site], tmp_path: Path) -> Iterator[Callable[..., Site]]:
    started: list[Site] = []

    def start(*texts: str, options: tuple[str, ...] = ()) -> Site:
        started.append(new_site(tmp_path, list(texts), *options))
        return started[-1]

    yield start
    for one in started:
        one.stop()
        one.assert_quiet(CUT_OFF)


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages; at the end, none of them has asked anybody but its server, nor stumbled."""
    opened: list[tuple[str, Any, list[str], list[str]]] = []

    def visit_page(url: str, *, script: str = "", **options: Any) -> Any:
        context = browser.new_context(**options)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        asked: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url.replace("ws://", "http://")))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        opened.append((url.partition("?")[0].rstrip("/"), context, asked, errors))
        return page

    yield visit_page
    for url, context, asked, errors in opened:
        context.close()
        elsewhere = [one for one in asked if not one.startswith((url, "data:", "blob:"))]
        assert elsewhere == []
        assert errors == []
        assert asked
