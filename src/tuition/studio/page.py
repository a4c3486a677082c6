"""The chat page: a conversation with a model, or a text that it continues, and the cost under each reply.

One `ChatPage` is one open page. It lives on the server; the browser draws it and keeps its conversations
(`studio/kept`).
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from nicegui import background_tasks, ui

from tuition.client.api import Api, Model
from tuition.client.errors import ClientError
from tuition.client.listen import take_receipt
from tuition.client.reply import Piece
from tuition.studio.controls import DEFAULT_TOKENS, SettingsMenu, icon_button
from tuition.studio.conversation import Choices, Conversation, Turn
from tuition.studio.history import History, ask
from tuition.studio.kept import Kept
from tuition.studio.meter import Meter, total_readings
from tuition.studio.reply import ReplyView, render_readings, show_note, show_question
from tuition.studio.welcome import show_earlier, show_welcome

ASSETS = Path(__file__).with_name("assets")
CSS = (ASSETS / "chat.css").read_text(encoding="utf-8")
SCRIPT = (ASSETS / "chat.js").read_text(encoding="utf-8")

DRAW_EVERY_S = 0.06
KEEP_EVERY_DRAWS = 8
"""About twice a second a reply that is coming is stored as far as it has come."""
CONNECT_S = 20.0
"""A visitor whose browser does not open the page's web socket within this time is forgotten."""
THEMES: dict[str, tuple[bool | None, str, str]] = {
    "auto": (None, "brightness_auto", "Colours follow the system"),
    "light": (False, "light_mode", "Light colours"),
    "dark": (True, "dark_mode", "Dark colours"),
}
ENTER_SENDS = (
    "(event) => { if (event.key === 'Enter' && !event.shiftKey && !event.isComposing)"
    " { event.preventDefault(); emit(event.target.value); } }"
)
MOST_CHARACTERS = 200_000
TOO_LONG = f"The text was not pasted: a message has at most {MOST_CHARACTERS:,} characters."
NOT_KEPT = "This browser does not store this conversation: it is lost when the page is closed."
CONTINUES = "{} continues text. It reads what you write next, not the conversation above."


class ChatPage:
    """State and elements of one open page."""

    def __init__(self, api: Api, wanted_model: str | None = None) -> None:
        self.api, self.wanted_model = api, wanted_model
        self.models: dict[str, Model] = {}
        self.conversation = Conversation("")
        self.reply_task: asyncio.Task[None] | None = None
        self.theme = "auto"

    async def build(self) -> None:
        """Draw the page. Raises: nicegui's ClientConnectionTimeout if the browser does not connect."""
        ui.add_css(CSS)
        ui.add_body_html(f"<script>{SCRIPT}</script>")
        self.dark = ui.dark_mode(None)
        self.client = ui.context.client
        self.kept = Kept(self.client)
        try:
            self.models = {model.name: model for model in await self.api.models()}
            problem = "" if self.models else "The server offers no model."
        except ClientError as error:
            problem = str(error)
        wanted = self.wanted_model if self.wanted_model in self.models else next(iter(self.models), "")
        self.conversation.model = wanted
        self._build_bar()
        self.talk = ui.element("main").classes("talk")
        self.talk.props('role="log" aria-live="polite" aria-busy="false"')
        self._build_composer()
        self._show_empty(problem)
        ui.on("studio-stop", self.stop)
        ui.on("studio-too-long", lambda: show_note(self.talk, TOO_LONG))
        ui.on("studio-gone", self.client.delete)
        self.client.on_delete(self.close)
        await self.client.connected(timeout=CONNECT_S)
        theme = await self.kept.theme()
        if theme in THEMES:
            self._set_theme(theme)
        kept = await self.kept.current()
        if self.conversation.turns:
            return  # something was sent meanwhile
        if kept is not None:
            await self._show(kept)
        elif heads := await self.kept.heads():
            show_earlier(self.talk, heads, self._open)

    def close(self) -> None:
        """The browser has gone: stop what the page asked for."""
        if self.reply_task is not None:
            self.reply_task.cancel()

    @property
    def model(self) -> Model | None:
        """The model that answers next."""
        return self.models.get(self.conversation.model)

    @property
    def chats(self) -> bool:
        """Whether it answers messages, rather than continue a text."""
        return self.model is None or self.model.has_chat

    @property
    def running(self) -> bool:
        """A reply is coming."""
        return self.reply_task is not None and not self.reply_task.done()

    # --- the parts of the page

    def _build_bar(self) -> None:
        with ui.element("header").classes("bar"), ui.element("div").classes("bar-inner"):
            ui.label("tuition").classes("wordmark")
            self.choice = ui.select(
                list(self.models), value=self.conversation.model or None, on_change=self._choose
            )
            self.choice.props('borderless dense options-dense aria-label="Model"').classes("model-choice")
            ui.element("div").classes("space")
            self.settings = SettingsMenu(self._set_choices)
            self.theme_button = icon_button("brightness_auto", THEMES["auto"][2], self._next_theme)
            self.history = History(self.kept, self._open, self._forget)
            icon_button("history", "Conversations", self.history.show)
            icon_button("edit_square", "New conversation", self._begin_anew)

    def _build_composer(self) -> None:
        with ui.element("div").classes("dock"), ui.element("div").classes("composer"):
            with ui.element("div").classes("composer-box"):
                self.input = ui.textarea().props(
                    f"autogrow borderless dense rows=1 autofocus maxlength={MOST_CHARACTERS}"
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

    def _show_state(self) -> None:
        """Make composer, button and menu say what they do now."""
        self.button.props(f"icon={'stop' if self.running else 'arrow_upward'}")
        self.button.props(f'aria-label="{"Stop the reply" if self.running else "Send"}"')
        label = "Your message" if self.chats else "The beginning of a text"
        placeholder = "Ask something" if self.chats else "Begin a text"
        self.input.props(f'placeholder="{placeholder}" input-aria-label="{label}" aria-label="{label}"')
        self.talk.props(f'aria-busy="{str(self.running).lower()}"')
        self.settings.show(self.conversation.choices, self.model)
        replies = (turn.meter.reply for turn in self.conversation.turns)
        self.total_line.set_content(render_readings(total_readings(replies)))

    def _show_empty(self, problem: str = "") -> None:
        self.talk.clear()
        with self.talk:
            show_welcome(self.model, self.send, problem)
        self._show_state()

    # --- conversations

    async def _show(self, conversation: Conversation) -> None:
        """Draw a kept conversation in place of this one; ask for costs that were not known when it ended."""
        self.conversation = conversation
        before = conversation.model
        if before not in self.models:
            conversation.model = next(iter(self.models), "")
        self.choice.value = conversation.model or None
        self.talk.clear()
        for turn in conversation.turns:
            view = self._new_view(turn)
            view.draw(turn.text)
            view.end(turn.meter.reply.remark or "", turn.failure)
            self._offer_more(view, turn)
            if turn.meter.reply.cost is None:
                await take_receipt(self.api, turn.meter.reply, wait_s=0)
            view.show_meter(turn.meter.readings())
        if before != conversation.model:
            show_note(self.talk, f"{before} is not served any more; {conversation.model} answers now.")
        self._show_state()
        self.client.run_javascript("studioFollow()")

    async def _open(self, conversation_id: str) -> None:
        if not await self._may_leave():
            return
        found = await self.kept.read(conversation_id)
        if found is None:
            show_note(self.talk, "This conversation can no longer be read from the browser's storage.")
            return
        self.stop()
        self.kept.make_current(found)
        await self._show(found)

    async def _forget(self, conversation_id: str) -> None:
        await self.kept.forget(conversation_id)
        if conversation_id == self.conversation.id:
            self._clear()

    async def _begin_anew(self) -> None:
        if await self._may_leave():
            self._clear()

    def _clear(self) -> None:
        self.stop()
        self.kept.make_current(None)
        self.conversation = Conversation(self.conversation.model, self.conversation.choices)
        self._show_empty()
        self.client.run_javascript("scrollTo(0, 0)")

    async def _may_leave(self) -> bool:
        """Ask if this conversation is not stored."""
        if self.kept.has_room or not self.conversation.turns:
            return True
        with self.talk:
            return await ask("Leave this conversation?", NOT_KEPT, yes="Leave it", no="Stay")

    # --- what a reader can do

    def _choose(self, event: Any) -> None:
        if event.value == self.conversation.model:
            return
        self.conversation.model = event.value
        if not self.conversation.turns:
            self._show_empty()
            return
        self._show_state()
        told = f"{event.value} answers from here on." if self.chats else CONTINUES.format(event.value)
        show_note(self.talk, told)

    def _set_choices(self, choices: Choices) -> None:
        self.conversation.choices = choices

    def _press(self) -> None:
        if self.running:
            self.stop()
        else:
            self.send(self.input.value)

    def send(self, text: str | None) -> None:
        """Send what was written, or a text to be continued."""
        if self.running or self.model is None or not text or not text.strip():
            return
        if not self.conversation.turns:
            self.talk.clear()
        kind, asked = ("chat", text.strip()) if self.chats else ("passage", text)
        turn = Turn(asked, kind, self.model.name, Meter(busy_hour=self.model.busy_hour))
        self.conversation.turns.append(turn)
        self.kept.make_current(self.conversation)
        self.input.set_value("")
        view = self._new_view(turn)
        self.reply_task = background_tasks.create(self._reply(self.conversation, turn, view), name="reply")
        self._show_state()
        self.client.run_javascript("studioFollow()")

    def _new_view(self, turn: Turn) -> ReplyView:
        if turn.kind == "chat":
            show_question(self.talk, turn.asked)
        return ReplyView(self.talk, passage_of=turn.asked if turn.kind == "passage" else None)

    def stop(self) -> None:
        """Stop the reply that is coming; what has come stays."""
        if self.running and self.reply_task is not None:
            self.reply_task.cancel()

    def _next_theme(self) -> None:
        names = list(THEMES)
        name = names[(names.index(self.theme) + 1) % len(names)]
        self._set_theme(name)
        self.client.run_javascript(f"studioTheme('{name}')")

    def _set_theme(self, name: str) -> None:
        self.theme = name
        self.dark.value, icon, label = THEMES[name]
        self.theme_button.props(f'icon="{icon}" aria-label="{label}" title="{label}"')

    # --- one reply

    def _pieces(self, conversation: Conversation, turn: Turn) -> AsyncIterator[Piece]:
        choices, model = conversation.choices, self.models[turn.model]
        settings: dict[str, Any] = {"max_tokens": choices.max_tokens or DEFAULT_TOKENS}
        if choices.temperature is not None:
            settings["temperature"] = choices.temperature
        if turn.kind == "chat":
            return self.api.chat(model, conversation.messages(), settings)
        return self.api.complete(model, turn.asked, settings)

    async def _reply(self, conversation: Conversation, turn: Turn, view: ReplyView) -> None:
        """Stream one reply into its view and the browser's storage, whatever way it ends."""
        meter, num_draws = turn.meter, 0

        def draw() -> None:
            nonlocal num_draws
            view.draw(turn.text)
            view.show_meter(meter.readings())
            if num_draws % KEEP_EVERY_DRAWS == 0:
                self.kept.note(conversation, turn)
            num_draws += 1

        with view.element:
            timer = ui.timer(DRAW_EVERY_S, draw)
        try:
            async for piece in self._pieces(conversation, turn):
                meter.take(piece)
            if meter.reply.finish_reason == "length" and turn.kind == "chat":
                meter.reply.remark = meter.reply.remark or "The reply reached its longest length."
        except asyncio.CancelledError:
            meter.reply.remark = "Stopped."
        except ClientError as error:
            turn.failure = str(error)
        timer.deactivate()
        meter.end()
        turn.running = False
        if self.client.is_deleted:
            return
        if not view.element.is_deleted:
            self._end(view, turn)
        await take_receipt(self.api, meter.reply)
        await self.kept.keep(conversation, turn)
        if not view.element.is_deleted:
            view.show_meter(meter.readings())
            if not self.kept.has_room:
                show_note(self.talk, NOT_KEPT)
        if conversation is self.conversation:
            self._show_state()

    def _end(self, view: ReplyView, turn: Turn) -> None:
        view.draw(turn.text)
        view.show_meter(turn.meter.readings())
        view.end(turn.meter.reply.remark or "", turn.failure)
        self._offer_more(view, turn)
        self.reply_task = None
        if turn.failure and not turn.text and not self.input.value:
            self.input.set_value(turn.asked)  # to be sent again, or shortened
        self._show_state()

    def _offer_more(self, view: ReplyView, turn: Turn) -> None:
        """A button under a passage that continues it."""
        if turn.kind != "passage" or not turn.text:
            return

        def go_on() -> None:
            if not self.running and not self.chats:
                button.delete()
                self.send(turn.asked + turn.text)

        with view.below:
            button = ui.button("Go on", icon="more_horiz", on_click=go_on, color=None)
            button.props("flat dense no-caps").classes("go-on")
