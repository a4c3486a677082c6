"""What an empty page says: what can be done here, and what the figures under a reply mean."""

from collections.abc import Callable

from nicegui import ui

from tuition.studio.api import Model

CHAT_EXAMPLES = (
    "What is the capital of France?",
    "Explain in one sentence what a token is.",
    "Write two lines about the sea.",
)
TEXT_EXAMPLES = ("ROMEO:", "Once upon a time", "KING HENRY:\nMy lords,")

METER = """<h2>Under each reply you see what it took</h2>
<dl><dt>Tokens</dt><dd>The pieces a model reads and writes, about three quarters of a word each.</dd>
<dt>Watt-hours</dt><dd>The energy this machine used for your reply. Boiling a cup of water takes about
30.</dd> <dt>Dollars</dt><dd>The machine’s time and electricity for exactly this reply.</dd></dl>
<p>Each figure says how it is known: measured by a counter,
modelled from the machine’s power, or assumed. While a reply comes, ≈ marks an estimate; its bill
follows.</p>"""


def show_welcome(model: Model | None, send: Callable[[str], None], problem: str) -> None:
    """Draw into the present element."""
    chats = model is None or model.has_chat
    with ui.element("section").classes("welcome"):
        ui.html("What would you like to ask?" if chats else "Begin a text, the model goes on.", tag="h1")
        if problem:
            ui.label(problem).classes("notice").props('role="alert"')
        elif chats:
            ui.label("The model answers from your server. What you write goes nowhere else.").classes("lead")
        else:
            lead = "This model was taught to continue text, not to answer questions. Give it a beginning."
            ui.label(lead).classes("lead")
        with ui.element("div").classes("examples"):
            for example in CHAT_EXAMPLES if chats else TEXT_EXAMPLES:
                button = ui.button(
                    example.replace("\n", " "), on_click=lambda text=example: send(text), color=None
                )
                button.props("flat no-caps").classes("example")
        ui.html(METER).classes("explain")
