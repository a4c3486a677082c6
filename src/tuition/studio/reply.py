"""How a turn is shown: the question, the growing reply, and its meter."""

from collections.abc import Callable, Sequence
from html import escape

from nicegui import ui

from tuition.studio.markdown import render_block, split_blocks
from tuition.studio.meter import Reading

PASSAGE_CHARACTERS = 2_000
"""A growing plain text is drawn in pieces of about this size, of which only the last changes."""


def render_readings(readings: Sequence[Reading]) -> str:
    """The figures as HTML, each with how it is known."""
    spans = []
    for reading in readings:
        mark = f'<span class="mark">{escape(reading.mark)}</span>' if reading.mark else ""
        label = f'class="{escape(reading.kind)}" title="{escape(reading.hint)}"'
        spans.append(f"<span {label}>{escape(reading.text)}{mark}</span>")
    return "".join(spans)


def render_passage(text: str) -> str:
    """Plain text as it is."""
    return escape(text)


def split_passage(text: str) -> list[str]:
    """Pieces of about PASSAGE_CHARACTERS; all but the last are final while the text grows."""
    return [text[i : i + PASSAGE_CHARACTERS] for i in range(0, len(text), PASSAGE_CHARACTERS)]


class GrowingText:
    """Draws a growing text; blocks that have not changed are not sent again."""

    def __init__(
        self, parent: ui.element, split: Callable[[str], list[str]], render: Callable[[str], str]
    ) -> None:
        self._parent, self._split, self._render = parent, split, render
        self._drawn: list[str] = []
        self._elements: list[ui.html] = []

    def draw(self, text: str) -> None:
        """Show `text` in place of what is shown."""
        blocks = self._split(text)
        for index, block in enumerate(blocks):
            if index < len(self._drawn):
                if self._drawn[index] != block:
                    self._drawn[index] = block
                    self._elements[index].set_content(self._render(block))
            else:
                with self._parent:
                    self._elements.append(ui.html(self._render(block)))
                self._drawn.append(block)
        while len(self._drawn) > len(blocks):
            self._drawn.pop()
            self._elements.pop().delete()


class ReplyView:
    """One reply: text or passage, remarks, meter."""

    def __init__(self, parent: ui.element, *, passage_of: str | None = None) -> None:
        with parent, ui.element("article").classes("turn reply") as self.element:
            if passage_of is None:
                body = ui.element("div").classes("prose")
                self._text = GrowingText(body, split_blocks, render_block)
            else:
                body = ui.element("div").classes("passage")
                with body:
                    ui.html(render_passage(passage_of)).classes("given")
                self._text = GrowingText(body, split_passage, render_passage)
            self._waiting = ui.html("<i></i><i></i><i></i>").classes("waiting")
            self._waiting.props('role="status" aria-label="The model is reading"')
            self.below = ui.element("div")
            self._meter = ui.html("").classes("meter").props('role="group" aria-label="What this reply took"')
            self.after = ui.element("div")

    def draw(self, text: str) -> None:
        """Show the reply as far as it has come."""
        if text:
            self._waiting.set_visibility(False)
        self._text.draw(text)

    def show_meter(self, readings: Sequence[Reading]) -> None:
        """Show the figures."""
        self._meter.set_content(render_readings(readings))

    def end(self, remark: str = "", failure: str = "") -> None:
        """No more text will come."""
        self._waiting.set_visibility(False)
        with self.below:
            if failure:
                ui.label(failure).classes("notice").props('role="alert"')
            if remark:
                ui.label(remark).classes("remark")


def show_question(parent: ui.element, text: str) -> None:
    """Show the question."""
    with parent, ui.element("div").classes("turn asked"), ui.element("div"):
        ui.label(text)


def show_note(parent: ui.element, text: str) -> None:
    """A line between the turns, about the conversation itself."""
    with parent, ui.element("div").classes("turn note"):
        ui.label(text)
