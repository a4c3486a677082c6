"""Who answers in `tuition chat`: a model loaded in this process, or one behind a running server.

Both print a reply as it comes and then one line of what it cost; Ctrl-C stops a reply, not the conversation.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

from tuition.cli.billed import Biller, cost_line
from tuition.core.errors import NotFoundError, TuitionError
from tuition.core.units import NUSD_PER_USD, UJ_PER_WH
from tuition.engine.request import complete
from tuition.engine.service import EngineService, Stream
from tuition.studio.api import Api, Cost, Failure, Model

Message = dict[str, str]

RECEIPT_WAIT_S = 5.0
"""For the server to book a reply that was stopped."""


class Partner(Protocol):
    """Who answers."""

    name: str
    has_chat: bool
    """False: it has no chat template and continues text."""

    def reply(self, messages: list[Message]) -> str:
        """Print the reply as it comes and then its cost; return its text."""
        ...


_ORDERS = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"
}
"""Control characters, by which a text moves the cursor, renames the window or writes to the clipboard."""


def show(text: str) -> None:
    """A piece of the reply, at once: a terminal gets no orders from a model, a file gets what was said."""
    sys.stdout.write(text.translate(_ORDERS) if sys.stdout.isatty() else text)
    sys.stdout.flush()


class LocalPartner:
    """A model in this process; its engine has a thread of its own, which Ctrl-C does not reach."""

    def __init__(self, biller: Biller, choices: Mapping[str, Any]) -> None:
        self.biller, self.choices = biller, choices
        opened = biller.opened
        self.name = opened.name
        self.has_chat = opened.engine.tokenizer.chat is not None
        self.service = EngineService(opened.engine.loop, opened.account.add)

    def reply(self, messages: list[Message]) -> str:
        """What was generated before Ctrl-C is billed and stays in the conversation."""
        engine = self.biller.opened.engine
        prompt = engine.encode(messages if self.has_chat else messages[-1]["content"])
        stream = self.service.submit(engine.request(prompt, priority="interactive", **self.choices))
        events = []
        with cancelled_by_ctrl_c(stream):
            for event in stream:
                events.append(event)
                show(event.text)
        completion = complete(events)
        cost = self.biller.bill(completion)
        print(flush=True)
        print(f"[{self.biller.line(completion, cost)}]", file=sys.stderr)
        if completion.error is not None:
            raise TuitionError(completion.error)
        return completion.text

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.service.stop()


@contextlib.contextmanager
def cancelled_by_ctrl_c(stream: Stream) -> Iterator[None]:
    """Ctrl-C ends the stream instead of raising, so that no event is lost on the way."""

    def cancel(number: int, frame: FrameType | None) -> None:
        stream.cancel()

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class Heard:
    """What has come of a reply."""

    text: str = ""
    request_id: str | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cost: Cost | None = None
    finish_reason: str | None = None


class RemotePartner:
    """A model behind a server."""

    def __init__(self, url: str, choices: Mapping[str, Any]) -> None:
        self.url, self.choices = url.rstrip("/").removesuffix("/v1"), choices
        self.model = asyncio.run(self._first_model())
        self.name, self.has_chat = self.model.name, self.model.has_chat

    def reply(self, messages: list[Message]) -> str:
        """Ctrl-C closes the stream, which ends the work on the server too."""
        start = time.monotonic()
        heard = Heard()
        try:
            asyncio.run(self._listen(messages, heard))
        except KeyboardInterrupt:
            heard.finish_reason = "cancelled"
        except Failure as failure:
            raise TuitionError(str(failure)) from failure
        seconds = time.monotonic() - start
        if heard.cost is None and heard.request_id is not None:
            asyncio.run(self._ask_receipt(heard))
        print(flush=True)
        print(f"[{self._line(heard, seconds)}]", file=sys.stderr)
        return heard.text

    def _line(self, heard: Heard, seconds: float) -> str:
        if heard.cost is None:
            return "stopped; its cost is in the server's books"
        energy_wh = heard.cost.energy_wh
        return cost_line(
            round(heard.cost.cost_usd * NUSD_PER_USD),
            None if energy_wh is None else round(energy_wh * UJ_PER_WH),
            prompt_tokens=heard.prompt_tokens,
            generated_tokens=heard.generated_tokens,
            seconds=seconds,
            energy_method=heard.cost.energy_method,
            finish_reason=heard.finish_reason,
        )

    def _api(self) -> Api:
        return Api(self.url, os.environ.get("TUITION_API_KEY"))

    async def _first_model(self) -> Model:
        api = self._api()
        try:
            models = await api.models()
        except Failure as failure:
            way_out = "start one with `tuition serve`, or name a model: tuition chat <model>"
            raise TuitionError(f"no answer from {self.url}: {failure} {way_out}") from failure
        finally:
            await api.close()
        if not models:
            raise NotFoundError("model", "at the server", ())
        return models[0]

    async def _listen(self, messages: list[Message], heard: Heard) -> None:
        api = self._api()
        pieces = (
            api.chat(self.name, messages, self.choices)
            if self.has_chat
            else api.complete(self.model, messages[-1]["content"], self.choices)
        )
        try:
            async for piece in pieces:
                show(piece.text)
                heard.text += piece.text
                heard.request_id = piece.request_id or heard.request_id
                heard.prompt_tokens = piece.num_prompt_tokens or heard.prompt_tokens
                heard.generated_tokens = piece.num_generated or heard.generated_tokens
                heard.cost = piece.cost or heard.cost
                heard.finish_reason = piece.finish_reason or heard.finish_reason
        finally:
            await api.close()

    async def _ask_receipt(self, heard: Heard) -> None:
        """The cost of a reply that was stopped, which is booked a moment later."""
        api = self._api()
        deadline = time.monotonic() + RECEIPT_WAIT_S
        try:
            while heard.cost is None and heard.request_id and time.monotonic() < deadline:
                receipt = await api.receipt(heard.request_id)
                if receipt is not None:
                    heard.cost = receipt.cost
                    heard.prompt_tokens = receipt.num_prompt_tokens or heard.prompt_tokens
                    heard.generated_tokens = receipt.num_generated or heard.generated_tokens
                else:
                    await asyncio.sleep(0.1)
        finally:
            await api.close()
