"""One HTTP call at work: its sequences in the engine, their events as they come, and their bills.

Each sequence has a task that reads its events to the end and settles its bill, whether or not the client is
still there; the reader of a call only listens. So a client that goes away stops its generation, and still
what was produced is billed.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tuition.engine.request import Request, TokenEvent
from tuition.serve.billing import Bill, settle
from tuition.serve.context import EventStream, ServeContext, ServedModel
from tuition.serve.errors import ApiError, internal, overloaded
from tuition.serve.metrics import Metrics
from tuition.serve.prompts import Prepared
from tuition.serve.replies import Usage

KEEP_ALIVE_S = 15.0


class ClientGoneError(Exception):
    """Nobody reads the reply any more."""


@dataclass(frozen=True, slots=True)
class Update:
    """What became of sequence `index`.

    An event, or after its last event the bill that is now in the books.
    """

    index: int
    event: TokenEvent | None = None
    bill: Bill | None = None


class Call:
    """Submits the sequences of a prepared call and hands on what comes of them.

    Raises, while it is read: ApiError if a sequence fails, its bill cannot be booked, or the server ends;
    ClientGoneError.
    """

    def __init__(
        self, context: ServeContext, metrics: Metrics, model: ServedModel, prepared: Prepared, request_id: str
    ) -> None:
        self.context, self.metrics, self.model = context, metrics, model
        self.prepared, self.request_id = prepared, request_id
        self._updates: asyncio.Queue[Update | Exception] = asyncio.Queue()
        self._streams: list[EventStream] = []
        self._last: dict[int, TokenEvent] = {}
        self._bills: dict[int, Bill] = {}
        self._off_abort = context.gate.on_abort(self._abort)

    def start(self) -> None:
        """Submit everything, or nothing. Raises: whatever the engine refuses with."""
        try:
            for request in self.prepared.requests:
                self._streams.append(self.model.service.submit(request))
        except BaseException:
            self.close()
            raise
        finally:
            for index, stream in enumerate(self._streams):
                task = asyncio.create_task(self._follow(index, self.prepared.requests[index], stream))
                self.context.gate.keep(task)

    async def updates(self) -> AsyncIterator[list[Update]]:
        """Everything that has come since the last time; an empty list if nothing came for a while."""
        while len(self._bills) < len(self._streams):
            try:
                first = await asyncio.wait_for(self._updates.get(), KEEP_ALIVE_S)
            except TimeoutError:
                yield []
                continue
            batch = [first]
            while not self._updates.empty():
                batch.append(self._updates.get_nowait())
            arrived: list[Update] = []
            failure: Exception | None = None
            for item in batch:
                if isinstance(item, Exception):
                    failure = item
                    break
                arrived.append(item)
                if item.event is not None:
                    self._last[item.index] = item.event
                if item.bill is not None:
                    self._bills[item.index] = item.bill
            if arrived:
                yield arrived
            if failure is not None:
                raise failure

    def usage(self) -> Usage:
        """Tokens so far; with the bill once every sequence is billed."""
        done = len(self._bills) == len(self._streams)
        return Usage(
            num_prompt_tokens=self.prepared.num_prompt_tokens,
            num_cached_tokens=sum(
                event.num_cached_tokens
                for index, event in self._last.items()
                if index % self.prepared.num_choices == 0
            ),
            num_generated=sum(event.num_generated for event in self._last.values()),
            bill=Bill.total(list(self._bills.values())) if done else None,
        )

    def client_gone(self) -> None:
        """The client has closed its connection."""
        self._updates.put_nowait(ClientGoneError())
        self.close()

    def close(self) -> None:
        """Stop whatever still generates. Billing goes on by itself."""
        self._off_abort()
        for index, stream in enumerate(self._streams):
            event = self._last.get(index)
            if event is None or event.finish_reason is None:
                stream.cancel()

    def _abort(self) -> None:
        self._updates.put_nowait(overloaded("the server was stopped before this reply was finished", 5))
        self.close()

    async def _follow(self, index: int, request: Request, stream: EventStream) -> None:
        """Read one sequence to its end and settle its bill."""
        try:
            last: TokenEvent | None = None
            async for event in stream:
                last = event
                self._updates.put_nowait(Update(index, event))
            if last is None or last.finish_reason is None:
                raise internal(self.request_id)
            sent_before = index % self.prepared.num_choices > 0
            bill = await settle(self.context, self.model, request, last, sent_before=sent_before)
            self.metrics.count(self.model.name, last, bill)
            if last.finish_reason == "error":
                raise self._failure(last)
            self._updates.put_nowait(Update(index, bill=bill))
        except Exception as error:
            self.metrics.failed(self.model.name, error)
            self._updates.put_nowait(error)
            if not isinstance(error, ApiError):
                self.close()

    def _failure(self, last: TokenEvent) -> ApiError:
        """One that never began found no room or no engine; another try may. Else it is our defect."""
        if last.timing is None and last.num_generated == 0:
            return overloaded("the engine could not take this request; try again", 2)
        return internal(self.request_id)
