"""Listen to one reply from a program without an event loop: the command line, the demo, tests."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from tuition.client.api import Api
from tuition.client.reply import Piece, Reply

T = TypeVar("T")

RECEIPT_WAIT_S = 5.0
"""For the server to book a reply that was stopped."""
RECEIPT_EVERY_S = 0.1


def call(url: str, api_key: str | None, what: Callable[[Api], Awaitable[T]]) -> T:
    """One call of the server: `call(url, key, lambda api: api.models())`. Raises: ClientError."""

    async def run() -> T:
        async with Api(url, api_key) as api:
            return await what(api)

    return asyncio.run(run())


def listen(
    url: str,
    api_key: str | None,
    ask: Callable[[Api], AsyncIterator[Piece]],
    show: Callable[[str], object] = lambda text: None,
) -> Reply:
    """The whole reply; `show` gets its text as it arrives.

    Ctrl-C closes the stream, which ends the work on the server too; the reply so far comes back, with
    finish_reason `cancelled` and the cost that the server has booked for it. Raises: ClientError.
    """
    reply = Reply()

    async def run() -> None:
        async with Api(url, api_key) as api:
            async for piece in ask(api):
                reply.take(piece)
                if piece.text:
                    show(piece.text)

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        reply.finish_reason = "cancelled"
        call(url, api_key, lambda api: take_receipt(api, reply))
    return reply


async def take_receipt(api: Api, reply: Reply, wait_s: float = RECEIPT_WAIT_S) -> None:
    """Add the cost of a reply that did not end by itself, which the server books a moment later."""
    deadline = time.monotonic() + wait_s
    while reply.cost is None and reply.request_id is not None:
        receipt = await api.receipt(reply.request_id)
        if receipt is not None:
            reply.take(receipt)
        elif time.monotonic() < deadline:
            await asyncio.sleep(RECEIPT_EVERY_S)
        else:
            return
