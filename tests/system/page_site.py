"""A server with the chat page in a process of its own, and what tests do on the page."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[1] / "reliability" / "serve" / "tiny_server.py"


class Site:
    """A server with pages in a process of its own."""

    def __init__(self, folder: Path, texts: list[str], *options: str) -> None:
        self.arguments = [str(folder / "books"), "--pages", *options]
        for index, text in enumerate(texts):
            path = folder / f"text{index}.md"
            path.write_text(text, encoding="utf-8")
            self.arguments += ["--text", str(path)]
        self.log = folder / "log"
        self.url = self.start()

    def start(self, port: str = "0") -> str:
        command = [sys.executable, str(PROGRAM), *self.arguments, "--port", port]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        url = self.process.stdout.readline().strip()  # type: ignore[union-attr]
        assert url, "the server did not start"
        return url

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(30)
        self.process.stdout.close()  # type: ignore[union-attr]

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
