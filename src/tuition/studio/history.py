"""The dialog with the conversations that this browser keeps: open one, or delete it after a question."""

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui

from tuition.studio.controls import icon_button
from tuition.studio.kept import Kept

EMPTY = "No conversation yet. Conversations are kept in this browser, on this device only."


class History:
    """Lists conversations; `open_one` and `forget` get the id of the chosen one."""

    def __init__(
        self, kept: Kept, open_one: Callable[[str], Awaitable[None]], forget: Callable[[str], Awaitable[None]]
    ) -> None:
        self._kept, self._open_one, self._forget = kept, open_one, forget
        with ui.dialog() as self._dialog, ui.element("div").classes("sheet"):
            with ui.element("div").classes("sheet-head"):
                ui.html("Conversations", tag="h2")
                icon_button("close", "Close", self._dialog.close)
            self._rows = ui.element("div").classes("kept-rows")

    async def show(self) -> None:
        """Open the dialog."""
        await self._fill()
        self._dialog.open()

    async def _fill(self) -> None:
        heads = await self._kept.heads()
        self._rows.clear()
        with self._rows:
            if not heads:
                ui.label(EMPTY).classes("setting-note")
            for head in heads:
                self._row(head)

    def _row(self, head: dict[str, Any]) -> None:
        async def choose() -> None:
            self._dialog.close()
            await self._open_one(str(head["id"]))

        async def delete() -> None:
            if await ask("Delete this conversation?", f"“{head['title']}”", yes="Delete", no="Keep it"):
                await self._forget(str(head["id"]))
                await self._fill()

        with ui.element("div").classes("kept-row"):
            with ui.button(on_click=choose, color=None).props("flat no-caps").classes("kept-open"):
                ui.label(str(head["title"])).classes("kept-title")
                ui.label(f"{head['model']} · {head['saved']}").classes("setting-note")
            icon_button("delete_outline", "Delete this conversation", delete)


async def ask(question: str, detail: str, *, yes: str, no: str) -> bool:
    """Ask before something is lost; closing the question is a no. Call it inside an element of the page."""
    with ui.dialog() as dialog, ui.element("div").classes("sheet").props('role="alertdialog"'):
        ui.html(question, tag="h2")
        ui.label(detail).classes("lead")
        with ui.element("div").classes("answers"):
            ui.button(no, on_click=lambda: dialog.submit(False), color=None).props("flat no-caps")
            button = ui.button(yes, on_click=lambda: dialog.submit(True), color=None)
            button.props("unelevated no-caps").classes("alarm")
    answer = bool(await dialog)
    dialog.delete()
    return answer
