"""A conversation: its turns, the messages sent to the model, and its JSON in the browser's storage."""

import secrets
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import TypeAdapter

from tuition.studio.meter import Meter

TITLE_CHARACTERS = 60
CUT_OFF = "The page was closed before this reply ended."


def new_id() -> str:
    """An id that no other tab or server makes."""
    return secrets.token_hex(8)


@dataclass
class Turn:
    """What was asked, and the reply with its figures."""

    asked: str
    kind: Literal["chat", "passage"]
    """chat: a message and its answer. passage: a text and its continuation, which no other turn reads."""
    model: str
    meter: Meter = field(default_factory=Meter)
    failure: str = ""
    """Why the reply did not come to its end; empty where it did, or where the reader stopped it."""
    running: bool = True
    id: str = field(default_factory=new_id)

    @property
    def text(self) -> str:
        """The reply so far."""
        return self.meter.reply.text


@dataclass(frozen=True)
class Choices:
    """What the reader has set for the replies; None leaves it to the model or the page."""

    temperature: float | None = None
    max_tokens: int | None = None


@dataclass
class Conversation:
    """Turns in their order."""

    model: str
    """The model that answers next."""
    choices: Choices = field(default_factory=Choices)
    turns: list[Turn] = field(default_factory=list)
    id: str = field(default_factory=new_id)

    @property
    def title(self) -> str:
        """How it begins."""
        first = " ".join(self.turns[0].asked.split()) if self.turns else ""
        return first if len(first) <= TITLE_CHARACTERS else first[: TITLE_CHARACTERS - 1] + "…"

    def messages(self) -> list[dict[str, str]]:
        """The messages for a chat model: the turns that have an answer, and the last question."""
        told = []
        for turn in self.turns:
            last = turn is self.turns[-1]
            if turn.kind == "chat" and (turn.text or last):
                told.append({"role": "user", "content": turn.asked})
                if turn.text and not (last and turn.running):
                    told.append({"role": "assistant", "content": turn.text})
        return told


_TURN, _CONVERSATION = TypeAdapter(Turn), TypeAdapter(Conversation)


def dump_turn(turn: Turn) -> str:
    """The turn as JSON, a reply that is still coming as if it ended now."""
    now = replace(turn, meter=replace(turn.meter, total_s=turn.meter.seconds))
    return _TURN.dump_json(now, exclude={"meter": {"started_s", "busy_hour"}}).decode()


def dump_head(conversation: Conversation) -> str:
    """The conversation without its turns as JSON, with the title that a list of conversations shows."""
    head = _CONVERSATION.dump_python(conversation, exclude={"turns"})
    return TypeAdapter(dict).dump_json(head | {"title": conversation.title}).decode()


def load_conversation(text: str) -> Conversation:
    """A conversation from the browser's storage; replies that were cut off say so.

    Raises: pydantic.ValidationError if the text is something else.
    """
    found = _CONVERSATION.validate_json(text)
    for turn in found.turns:
        if turn.running:
            turn.running = False
            turn.meter.reply.remark = CUT_OFF
    return found
