"""Server-sent events, and the plain reply as the stream, folded.

The chunk that sets finish_reason is sent only after the sequence's row is committed, and so are the usage and
`[DONE]`: a finished reply is always a billed one. A stream that breaks ends with an error event
and without `[DONE]`.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tuition.core.units import NUSD_PER_USD, UJ_PER_WH
from tuition.engine.request import TokenEvent, complete
from tuition.serve.calls import Call, ClientGoneError, Update
from tuition.serve.errors import as_api_error, dump_json, json_response
from tuition.serve.middleware import wait_for_disconnect
from tuition.serve.protocol import StreamOptions
from tuition.serve.replies import Dialect

log = logging.getLogger("tuition.serve")
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": waiting\n\n"
CLIENT_CLOSED = 499


async def whole_reply(call: Call, dialect: Dialect, head: dict[str, Any], receive: Receive) -> Response:
    """Run the call to its end and answer with one JSON object."""
    events: defaultdict[int, list[TokenEvent]] = defaultdict(list)
    watch = _watch(call, receive)
    try:
        async for updates in call.updates():
            for update in updates:
                if update.event is not None:
                    events[update.index].append(update.event)
    except ClientGoneError:
        return Response(status_code=CLIENT_CLOSED)
    finally:
        watch.cancel()
        call.close()
    usage = call.usage()
    choices = [dialect.choice(index, complete(events[index])) for index in sorted(events)]
    reply = head | {"object": dialect.whole_object, "choices": choices, "usage": usage.as_json()}
    headers = {}
    if usage.bill is not None:
        headers["x-tuition-cost-usd"] = f"{usage.bill.cost_nusd / NUSD_PER_USD:.9f}"
        if usage.bill.energy_uj is not None:
            headers["x-tuition-energy-wh"] = f"{usage.bill.energy_uj / UJ_PER_WH:.12f}"
    return json_response(reply, headers=headers)


class StreamedReply(Response):
    """The call as server-sent events."""

    media_type = "text/event-stream"

    def __init__(self, call: Call, dialect: Dialect, head: dict[str, Any], options: StreamOptions) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.call, self.dialect, self.options = call, dialect, options
        self._head = head | {"object": dialect.chunk_object}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = _watch(self.call, receive)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for piece in self._pieces():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (ClientGoneError, OSError):
            pass  # uvicorn raises OSError for a connection that is gone
        finally:
            watch.cancel()
            self.call.close()

    async def _pieces(self) -> AsyncIterator[bytes]:
        dialect, last = self.dialect, {}
        openings = (dialect.opening(index) for index in range(len(self.call.prepared.requests)))
        first = b"".join(self._chunk([choice]) for choice in openings if choice is not None)
        if first:
            yield first
        try:
            async for updates in self.call.updates():
                yield b"".join(self._events(updates, last)) if updates else KEEP_ALIVE
        except ClientGoneError:
            raise
        except Exception as error:
            reply = as_api_error(error, self.call.request_id)
            log.info("request %s: stream ended with %s", self.call.request_id, reply.code)
            yield f"data: {dump_json(reply.payload)}\n\n".encode()
            return
        if self.options.include_usage:
            yield self._chunk([], self.call.usage().as_json())
        yield DONE

    def _events(self, updates: list[Update], last: dict[int, TokenEvent]) -> list[bytes]:
        pieces = []
        for update in updates:
            choice = None
            if update.event is not None:
                last[update.index] = update.event
                choice = self.dialect.piece(update.index, update.event)
            elif update.bill is not None:
                choice = self.dialect.closing(update.index, last[update.index].finish_reason or "stop")
            if choice is not None:
                pieces.append(self._chunk([choice]))
        return pieces

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        chunk = self._head | {"choices": choices}
        if self.options.continuous_usage_stats and usage is None:
            usage = self.call.usage().as_json()
        if self.options.include_usage or usage is not None:
            chunk["usage"] = usage
        return f"data: {dump_json(chunk)}\n\n".encode()


def _watch(call: Call, receive: Receive) -> asyncio.Task[None]:
    async def watch() -> None:
        await wait_for_disconnect(receive)
        call.client_gone()

    return asyncio.create_task(watch())
