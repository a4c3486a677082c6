"""A server with the chat page in a process of its own, and what tests do on the page."""

from pathlib import Path
from typing import Any

import pytest

from forge import TINY_SERVER, Forge


class Site:
    """A server with pages in a process of its own."""

    def __init__(self, forge: Forge, folder: Path, texts: list[str], *options: str) -> None:
        self.forge = forge
        self.arguments = [str(folder / "books"), "--pages", *options]
        for index, text in enumerate(texts):
            path = folder / f"text{index}.md"
            path.write_text(text, encoding="utf-8")
            self.arguments += ["--text", str(path)]
        self.log = folder / "log"
        self.url = self.start()

    def start(self, port: str = "0") -> str:
        log = open(self.log, "ab")  # noqa: SIM115 - closed with the process
        self.process = self.forge.start(TINY_SERVER, [*self.arguments, "--port", port], log)
        url = self.process.stdout.readline().strip()
        assert url, "the server did not start"
        return url

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.process.close()

    def assert_quiet(self, *allowed: str) -> None:
        """Nothing above INFO was logged, but lines with one of the allowed texts: Python prints the rest."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        above = [line for line in lines if not any(text in line for text in allowed)]
        if above:
            pytest.fail("the server logged:\n" + "\n".join(above), pytrace=False)

    def restart(self) -> None:
        self.stop()
        self.start(self.url.rpartition(":")[2])


def ask(page: Any, text: str) -> None:
    page.wait_for_selector(".composer textarea")
    page.locator(".composer textarea").fill(text)
    page.locator(".composer textarea").press("Enter")


def wait_for_bills(page: Any, count: int = 1) -> None:
    page.wait_for_function(f"document.querySelectorAll('.reply .meter .money').length == {count}")
