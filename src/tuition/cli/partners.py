"""The model that answers in `tuition chat`: loaded in this process, or of a running server.

Both print a reply as it arrives and then one line with its cost; Ctrl-C stops a reply, not the conversation.
"""

import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from tuition.cli.cost_line import cost_line, line_of
from tuition.cli.streaming import cancelled_by_ctrl_c, show
from tuition.client.api import Api
from tuition.client.errors import ClientError
from tuition.client.listen import call, listen
from tuition.client.reply import Piece, Reply
from tuition.core.errors import NotFoundError, TuitionError
from tuition.core.units import NUSD_PER_USD, UJ_PER_WH
from tuition.desk.engine import Engine
from tuition.engine.request import complete

Message = dict[str, str]


class Partner(Protocol):
    """A model that answers."""

    name: str
    has_chat: bool
    """False: it has no chat template and continues text."""

    def reply(self, messages: list[Message]) -> str:
        """Print the reply as it arrives and then its cost; return its text."""
        ...


class LocalPartner:
    """A model in this process. Its engine runs in another thread, which Ctrl-C does not interrupt."""

    def __init__(self, engine: Engine, choices: Mapping[str, Any]) -> None:
        self.engine, self.choices, self.name = engine, choices, engine.name
        self.has_chat = engine.tokenizer.chat is not None
        self.service = engine.service()

    def reply(self, messages: list[Message]) -> str:
        """Text generated before Ctrl-C is billed and stays in the conversation."""
        engine = self.engine
        prompt = engine.encode(messages if self.has_chat else messages[-1]["content"])
        stream = self.service.submit(engine.request(prompt, priority="interactive", **self.choices))
        events = []
        with cancelled_by_ctrl_c(stream):
            for event in stream:
                events.append(event)
                show(event.text)
        completion = complete(events)
        cost = engine.desk.settle(completion)
        print(flush=True)
        print(f"[{line_of(completion, cost)}]", file=sys.stderr)
        if completion.error is not None:
            raise TuitionError(completion.error)
        return completion.text

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.service.stop()


class RemotePartner:
    """A model of a server: the one of this name, or the first."""

    def __init__(self, url: str, choices: Mapping[str, Any], wanted: str | None = None) -> None:
        self.url, self.choices, self.key = url, choices, os.environ.get("TUITION_API_KEY")
        try:
            models = call(url, self.key, lambda api: api.models())
        except ClientError as error:
            way_out = "start one with `tuition serve`, or name a model: tuition chat MODEL"
            raise TuitionError(f"no answer from {url}: {error} {way_out}") from error
        named = [model for model in models if wanted in (None, model.name)]
        if not named:
            raise NotFoundError("model", wanted or "at the server", [model.name for model in models])
        self.model = named[0]
        self.name, self.has_chat = self.model.name, self.model.has_chat

    def reply(self, messages: list[Message]) -> str:
        """Ctrl-C closes the stream, which ends the work on the server too."""
        start = time.monotonic()
        reply = listen(self.url, self.key, lambda api: self._ask(api, messages), show)
        print(flush=True)
        print(f"[{_line(reply, time.monotonic() - start)}]", file=sys.stderr)
        return reply.text

    def _ask(self, api: Api, messages: list[Message]) -> AsyncIterator[Piece]:
        if self.has_chat:
            return api.chat(self.model, messages, self.choices)
        return api.complete(self.model, messages[-1]["content"], self.choices)


def _line(reply: Reply, seconds: float) -> str:
    remark = f"{reply.remark} " if reply.remark else ""
    if reply.cost is None:
        return f"{remark}stopped; its cost is in the server's books"
    energy_wh = reply.cost.energy_wh
    line = cost_line(
        round(reply.cost.cost_usd * NUSD_PER_USD),
        None if energy_wh is None else round(energy_wh * UJ_PER_WH),
        prompt_tokens=reply.num_prompt_tokens,
        generated_tokens=reply.num_generated,
        seconds=seconds,
        energy_method=reply.cost.energy_method,
        finish_reason=reply.finish_reason,
    )
    return remark + line
