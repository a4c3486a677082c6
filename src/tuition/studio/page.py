"""The chat page: a conversation with a model, or a text that it continues, and under each reply what it took.

One `ChatPage` is one open page. It lives on the server; the browser draws what it says.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from nicegui import background_tasks, ui

from tuition.studio.api import Api, Failure, Model, Piece
from tuition.studio.meter import Meter, Totals
from tuition.studio.reply import ReplyView, render_readings, show_question
from tuition.studio.welcome import show_welcome

ASSETS = Path(__file__).with_name("assets")
CSS = (ASSETS / "chat.css").read_text(encoding="utf-8")
SCRIPT = (ASSETS / "chat.js").read_text(encoding="utf-8")

DRAW_EVERY_S = 0.06
RECEIPT_TRIES = 20
RECEIPT_EVERY_S = 0.15
THEMES: dict[str, tuple[bool | None, str, str]] = {
    "auto": (None, "brightness_auto", "Colours follow the system"),
    "light": (False, "light_mode", "Light colours"),
    "dark": (True, "dark_mode", "Dark colours"),
}
ENTER_SENDS = (
    "(event) => { if (event.key === 'Enter' && !event.shiftKey && !event.isComposing)"
    " { event.preventDefault(); emit(event.target.value); } }"
)


class ChatPage:
    """State and elements of one open page."""

    def __init__(self, api: Api, wanted_model: str | None = None) -> None:
        self.api, self.wanted_model = api, wanted_model
        self.models: dict[str, Model] = {}
        self.model: Model | None = None
        self.messages: list[dict[str, str]] = []
        self.totals = Totals()
        self.temperature, self.max_tokens = 0.8, 512
        self.reply_task: asyncio.Task[None] | None = None
        self.theme = "auto"

    async def build(self) -> None:
        """Draw the page."""
        ui.add_css(CSS)
        ui.add_body_html(f"<script>{SCRIPT}</script>")
        self.dark = ui.dark_mode(None)
        try:
            self.models = {model.name: model for model in await self.api.models()}
            problem = ""
        except Failure as failure:
            problem = str(failure)
        self.model = self.models.get(self.wanted_model or "") or next(iter(self.models.values()), None)
        self._build_bar()
        self.talk = (
            ui.element("main").classes("talk").props('role="log" aria-live="polite" aria-busy="false"')
        )
        self._build_composer()
        self._show_empty(problem)
        ui.on("studio-stop", self.stop)
        client = ui.context.client
        client.on_delete(self.close)
        await client.connected()
        before = await ui.run_javascript("return studioThemeBefore()")
        if before in THEMES:
            self._set_theme(before)

    async def close(self) -> None:
        """The page is gone: stop what it asked for."""
        if self.reply_task is not None:
            self.reply_task.cancel()
        await self.api.close()

    # --- the parts of the page

    def _build_bar(self) -> None:
        with ui.element("header").classes("bar"), ui.element("div").classes("bar-inner"):
            ui.label("tuition").classes("wordmark")
            choice = ui.select(
                list(self.models), value=self.model.name if self.model else None, on_change=self._choose
            )
            choice.props('borderless dense options-dense aria-label="Model"').classes("model-choice")
            ui.element("div").classes("space")
            with _icon_button("tune", "Settings"), ui.menu().props('anchor="bottom right" self="top right"'):
                self._build_settings()
            self.theme_button = _icon_button("brightness_auto", THEMES["auto"][2], self._next_theme)
            _icon_button("edit_square", "New conversation", self.clear)

    def _build_settings(self) -> None:
        with ui.element("section").classes("settings"):
            ui.html("Settings", tag="h2")
            self._build_slider(
                "Temperature",
                "temperature",
                (0, 1.5, 0.05),
                lambda value: f"{value:.2f}",
                "Temperature",
                "0 always takes the likeliest word; higher is freer.",
            )
            self._build_slider(
                "Longest reply",
                "max_tokens",
                (16, 2_048, 16),
                lambda value: f"{int(value):,} tokens",
                "Longest reply, in tokens",
                "A token is about three quarters of a word.",
            )

    def _build_slider(
        self,
        title: str,
        field: str,
        scale: tuple[float, float, float],
        show: Callable[[float], str],
        label: str,
        note: str,
    ) -> None:
        def change(event: Any) -> None:
            setattr(self, field, event.value)
            shown.set_content(show(event.value))

        low, high, step = scale
        with ui.element("div").classes("setting"):
            with ui.element("div").classes("setting-head"):
                ui.label(title)
                shown = ui.html(show(getattr(self, field)), tag="b")
            slider = ui.slider(min=low, max=high, step=step, value=getattr(self, field), on_change=change)
            slider.props(f'aria-label="{label}"')
            ui.label(note).classes("setting-note")

    def _build_composer(self) -> None:
        with ui.element("div").classes("dock"), ui.element("div").classes("composer"):
            with ui.element("div").classes("composer-box"):
                self.input = ui.textarea().props(
                    "autogrow borderless dense rows=1 autofocus maxlength=200000"
                )
                self.input.classes("composer-input")
                self.input.on("keydown", lambda event: self.send(event.args), js_handler=ENTER_SENDS)
                self.button = ui.button(icon="arrow_upward", on_click=self._press, color=None).props(
                    "unelevated round dense"
                )
                self.button.classes("send")
            with ui.element("div").classes("under"):
                self.total_line = ui.html("").classes("totals meter")
                self.total_line.props('role="status" aria-label="This conversation so far"')
                ui.label("Enter sends · Shift+Enter new line · Esc stops").classes("hint")
        self._show_state()

    def _show_state(self) -> None:
        """Make composer and button say what they do now."""
        running, chats = self.running, self.model is None or self.model.has_chat
        self.button.props(f"icon={'stop' if running else 'arrow_upward'}")
        self.button.props(f'aria-label="{"Stop the reply" if running else "Send"}"')
        label = "Your message" if chats else "The beginning of a text"
        placeholder = "Ask something" if chats else "Begin a text, and the model goes on"
        self.input.props(f'placeholder="{placeholder}" input-aria-label="{label}" aria-label="{label}"')
        self.talk_busy(running)

    def talk_busy(self, busy: bool) -> None:
        """Tell screen readers whether the conversation is still changing."""
        if hasattr(self, "talk"):
            self.talk.props(f'aria-busy="{str(busy).lower()}"')

    def _show_empty(self, problem: str = "") -> None:
        self.talk.clear()
        with self.talk:
            show_welcome(self.model, self.send, problem)
        self.total_line.set_content("")

    # --- what a reader can do

    @property
    def running(self) -> bool:
        """A reply is coming."""
        return self.reply_task is not None and not self.reply_task.done()

    def _choose(self, event: Any) -> None:
        self.model = self.models.get(event.value)
        self.clear()

    def _press(self) -> None:
        if self.running:
            self.stop()
        else:
            self.send(self.input.value)

    def send(self, text: str | None) -> None:
        """Send what was written."""
        if self.running or self.model is None or not text or not text.strip():
            return
        if not self.messages:
            self.talk.clear()
        self.input.set_value("")
        if self.model.has_chat:
            self.messages.append({"role": "user", "content": text.strip()})
            show_question(self.talk, text.strip())
            self._start(ReplyView(self.talk), None)
        else:
            self._continue(text)

    def _continue(self, text: str) -> None:
        self.messages.append({"role": "text", "content": text})
        self._start(ReplyView(self.talk, passage_of=text), text)

    def _start(self, view: ReplyView, prompt: str | None) -> None:
        self.reply_task = background_tasks.create(self._reply(view, prompt), name="reply")
        self._show_state()
        ui.run_javascript("studioFollow()")

    def stop(self) -> None:
        """Stop the reply that is coming; what has come stays."""
        if self.running and self.reply_task is not None:
            self.reply_task.cancel()

    def clear(self) -> None:
        """Begin a new conversation."""
        self.stop()
        self.messages, self.totals = [], Totals()
        self._show_empty()
        self._show_state()

    def _next_theme(self) -> None:
        names = list(THEMES)
        name = names[(names.index(self.theme) + 1) % len(names)]
        self._set_theme(name)
        ui.run_javascript(f"studioTheme('{name}')")

    def _set_theme(self, name: str) -> None:
        self.theme = name
        self.dark.value, icon, label = THEMES[name]
        self.theme_button.props(f'icon="{icon}" aria-label="{label}" title="{label}"')

    # --- one reply

    def _pieces(self, model: Model, prompt: str | None) -> AsyncIterator[Piece]:
        settings = {"temperature": round(self.temperature, 2), "max_tokens": int(self.max_tokens)}
        if prompt is None:
            return self.api.chat(model.name, self.messages, settings)
        return self.api.complete(model, prompt, settings)

    async def _reply(self, view: ReplyView, prompt: str | None) -> None:
        """Stream one reply into its view, whatever way it ends."""
        meter = Meter(self.model.busy_hour if self.model is not None else None)
        totals, messages = self.totals, self.messages
        text, drawn, remark, failure, request_id = "", "", "", "", None

        def draw() -> None:
            nonlocal drawn
            if text != drawn:
                drawn = text
                view.draw(text)
            view.show_meter(meter.readings())

        with view.element:
            timer = ui.timer(DRAW_EVERY_S, draw)
        try:
            if self.model is not None:
                async for piece in self._pieces(self.model, prompt):
                    text += piece.text
                    request_id = piece.request_id or request_id
                    meter.take(piece)
                    remark = piece.remark or remark
                    if piece.finish_reason == "length" and prompt is None:
                        remark = remark or "The reply reached its longest length."
        except asyncio.CancelledError:
            remark = "Stopped."
        except Failure as problem:
            failure = str(problem)
        timer.deactivate()
        meter.end()
        if view.element.is_deleted or view.element.client.is_deleted:
            return
        draw()
        view.end(remark, failure)
        messages.append({"role": "assistant", "content": text})
        if failure and not text:
            messages[-2:] = []
        self._show_state_after(view, prompt, text)
        if meter.cost is None and request_id is not None:
            await self._ask_for_receipt(request_id, meter)
            view.show_meter(meter.readings())
        totals.add(meter)
        if totals is self.totals:
            self.total_line.set_content(render_readings(totals.readings()))

    def _show_state_after(self, view: ReplyView, prompt: str | None, text: str) -> None:
        self.reply_task = None
        with view.element:
            self._show_state()
        if prompt is not None and text:
            whole = prompt + text
            with view.below:
                button = (
                    ui.button("Go on", icon="more_horiz", color=None)
                    .props("flat dense no-caps")
                    .classes("go-on")
                )
                button.on_click(lambda: None if self.running else (button.delete(), self._continue(whole)))

    async def _ask_for_receipt(self, request_id: str, meter: Meter) -> None:
        """A reply that did not come to its end is booked all the same; ask until it is."""
        for _ in range(RECEIPT_TRIES):
            await asyncio.sleep(RECEIPT_EVERY_S)
            receipt = await self.api.receipt(request_id)
            if receipt is not None:
                meter.take(receipt)
                return


def _icon_button(icon: str, label: str, on_click: Any = None) -> ui.button:
    button = (
        ui.button(icon=icon, on_click=on_click, color=None).props("flat round dense").classes("icon-button")
    )
    return button.props(f'aria-label="{label}" title="{label}"')
