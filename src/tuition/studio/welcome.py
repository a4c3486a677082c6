"""The empty page: suggestions, earlier conversations, and what the figures under a reply mean."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from nicegui import ui

from tuition.client.api import Model

MOST_EARLIER = 3
CHAT_EXAMPLES = (
    "What is the capital of France? Answer in one sentence.",
    "Explain in one sentence what a token is.",
    "Write two lines about the sea.",
)
CHAT_LEAD = "The model runs on your server. Your conversations are kept in this browser and nowhere else."
TEXT_LEAD = "This model was taught to continue text, not to answer questions. Give it a beginning."
TEXT_EXAMPLES = ("ROMEO:", "Once upon a time", "KING HENRY:\nMy lords,")

METER = """<h2>Under each reply you see what it took</h2>
<dl><dt>Tokens</dt><dd>The pieces a model reads and writes, about three quarters of a word each.</dd>
<dt>Watt-hours</dt><dd>The energy this machine used for your reply. Boiling a cup of water takes about
30.</dd> <dt>Dollars</dt><dd>The machine’s time and electricity for exactly this reply.</dd></dl>
<p>Each figure says how it is known: measured by a counter, modelled from the machine’s power, or assumed.
While a reply comes, ≈ marks an estimate; the booked cost follows.</p>"""


def show_welcome(model: Model | None, send: Callable[[str], None], problem: str) -> None:
    """Draw into the present element."""
    chats = model is None or model.has_chat
    with ui.element("section").classes("welcome"):
        ui.html(
            "What would you like to ask?" if chats else "Begin a text, and the model continues it.", tag="h1"
        )
        if problem:
            ui.label(problem).classes("notice").props('role="alert"')
        elif chats:
            ui.label(CHAT_LEAD).classes("lead")
        else:
            ui.label(TEXT_LEAD).classes("lead")
        with ui.element("div").classes("examples"):
            for example in CHAT_EXAMPLES if chats else TEXT_EXAMPLES:
                button = ui.button(
                    example.replace("\n", " "), on_click=lambda text=example: send(text), color=None
                )
                button.props("flat no-caps").classes("example")
        ui.html(METER).classes("explain")


def show_earlier(
    parent: ui.element, heads: Sequence[Mapping[str, Any]], open_one: Callable[[str], Awaitable[None]]
) -> None:
    """The newest conversations of this browser, on an empty page."""
    with parent, ui.element("section").classes("welcome earlier"):
        ui.html("Earlier conversations", tag="h2")
        for head in heads[:MOST_EARLIER]:
            button = ui.button(
                str(head["title"]), on_click=lambda found=str(head["id"]): open_one(found), color=None
            )
            button.props("flat no-caps align=left").classes("earlier-one")
