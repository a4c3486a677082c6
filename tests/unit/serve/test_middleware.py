"""What wraps every request: the id, and what a connection that breaks leaves of a reply."""

import asyncio
from typing import Any

import pytest

from tuition.serve.middleware import RequestIdMiddleware

BROKEN = "unable to perform operation on <TCPTransport closed=True>; the handler is closed"


async def two_messages(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})


def reply_over(error: RuntimeError) -> list[tuple[int, float]]:
    """Send a reply over a connection that fails; what was observed of it."""
    observed: list[tuple[int, float]] = []
    middleware = RequestIdMiddleware(
        two_messages, lambda scope, status, took: observed.append((status, took))
    )

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise error

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    asyncio.run(middleware({"type": "http", "headers": []}, receive, send))
    return observed


def test_a_client_that_goes_while_it_is_sent_to_is_no_fault_of_the_server() -> None:
    """Seen as a traceback on the terminal once in some hundred streams that were reset."""
    assert reply_over(RuntimeError(BROKEN))[0][0] == 200


def test_any_other_failure_to_send_is_one() -> None:
    with pytest.raises(RuntimeError, match="longer than"):
        reply_over(RuntimeError("Response content longer than Content-Length"))
