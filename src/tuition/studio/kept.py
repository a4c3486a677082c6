"""Conversations in the browser's own storage: they survive a reload, and a server that starts again.

The functions that read and write there are in `studio/assets/chat.js`. Several tabs share the storage; each
has its own conversation, and a tab that finds another tab's turns in the place of its own takes a new id.
"""

import json
from typing import Any

from nicegui import Client
from pydantic import ValidationError

from tuition.studio.conversation import Conversation, Turn, dump_head, dump_turn, load_conversation, new_id

ANSWER_S = 30.0
"""For the browser to answer; a phone may be busy drawing."""
OTHER_TAB, NO_ROOM = "other", "full"


class Kept:
    """The storage of the browser that shows this page."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.has_room = True
        """False after the browser refused to store: the conversation is then only in the page."""

    async def current(self) -> Conversation | None:
        """The conversation of this tab, if it had one before it was loaded again."""
        found = await self._ask("studioCurrent()")
        return None if not found else await self.read(str(found))

    async def heads(self) -> list[dict[str, Any]]:
        """id, title, model and time of all stored conversations, the newest first."""
        return await self._ask("studioHeads()") or []

    async def read(self, conversation_id: str) -> Conversation | None:
        """A stored conversation; None if it is gone or cannot be read."""
        text, start = "", 0
        while True:  # in slices: a message of the web socket has a limit
            part = await self._ask(f"studioSlice({json.dumps(conversation_id)}, {start})")
            if not part:
                break
            text += part
            start = len(text.encode("utf-16-le")) // 2  # JavaScript counts UTF-16 units
        try:
            return load_conversation(text) if text else None
        except ValidationError:
            return None

    def note(self, conversation: Conversation, turn: Turn) -> None:
        """Store one turn as it is now, without waiting."""
        self._client.run_javascript(self._keep(conversation, turn))

    async def keep(self, conversation: Conversation, turn: Turn) -> None:
        """Store one turn, and find out whether the browser did."""
        status = await self._ask(self._keep(conversation, turn))
        if status == OTHER_TAB:
            conversation.id = new_id()
            for each in conversation.turns:
                status = await self._ask(self._keep(conversation, each))
            self.make_current(conversation)
        self.has_room = status != NO_ROOM

    def make_current(self, conversation: Conversation | None) -> None:
        """What this tab shows again after a reload; None: an empty page."""
        wanted = "" if conversation is None else conversation.id
        self._client.run_javascript(f"studioMakeCurrent({json.dumps(wanted)})")

    async def forget(self, conversation_id: str) -> None:
        """Delete a conversation."""
        await self._ask(f"studioForget({json.dumps(conversation_id)})")

    def _keep(self, conversation: Conversation, turn: Turn) -> str:
        index = next(i for i, each in enumerate(conversation.turns) if each is turn)
        return f"studioKeep({dump_head(conversation)}, {index}, {dump_turn(turn)})"

    async def theme(self) -> Any:
        """The choice of light or dark; None before one was made."""
        return await self._ask("studioThemeBefore()")

    async def _ask(self, call: str) -> Any:
        """What a function of the page returns; None if the browser has gone or does not answer."""
        try:
            return await self._client.run_javascript(f"return {call}", timeout=ANSWER_S)
        except TimeoutError:
            return None
