"""What wraps every HTTP request.

An id, a cap on the body, and one place where an exception becomes a reply.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress

from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuition.serve.access import Access, header
from tuition.serve.errors import ApiError, as_api_error, error_response

log = logging.getLogger("tuition.serve")

UNREAD_BYTES = 256 << 20
"""Most bytes of an unread body that are read behind the reply."""
UNREAD_SECONDS = 30.0
"""How long that may take."""


class RequestIdMiddleware:
    """Gives each request an id, sent back as `x-request-id`, and turns stray exceptions into a JSON 500."""

    def __init__(self, app: ASGIApp, observe: Callable[[Scope, int, float], None]) -> None:
        self.app, self.observe = app, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        started, status = time.monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            try:
                await send(message)
            except RuntimeError as error:  # uvloop's, for what is sent between a break and the news of it
                if "handler is closed" not in str(error):
                    raise

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            if status:  # half a reply is out; only closing the connection says so
                raise
            reply = as_api_error(error, request_id)
            if (
                reply.status == 500
            ):  # the traceback without the message, which might quote what the user wrote
                log.error("request %s failed: %s at %s", request_id, type(error).__name__, _place(error))
            await error_response(reply)(scope, receive, send_with_id)
        finally:
            self.observe(scope, status, time.monotonic() - started)


def _place(error: BaseException) -> str:
    """Where an exception was raised, as files and lines of code only."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(places[-6:])


class EndpointMiddleware:
    """Refuses unknown paths, and methods that a path does not take.

    The router cannot: pages mounted beside the endpoints take every path and method, and answer unknown ones
    in HTML. They may do so only for requests outside /v1 that ask for HTML.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], access: Access) -> None:
        self.app, self.routes, self.access = app, routes, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._check(scope)
            if scope["method"] == "HEAD" and scope["path"] in self.access.page_paths:
                scope = {**scope, "method": "GET"}  # all that pages know; the connection leaves the body out
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        path, method = scope["path"], scope["method"]
        allowed: set[str] = {"GET", "HEAD"} if path in self.access.page_paths else set()
        if method in allowed:
            return
        for route in self.routes:
            match, _ = route.matches(scope)
            if match is Match.FULL:
                return
            if match is Match.PARTIAL and isinstance(route, Route):
                allowed |= route.methods or set()
        if allowed:
            methods = ", ".join(sorted(allowed))
            raise ApiError(
                405, f"this path takes {methods} only", code="method_not_allowed", headers={"allow": methods}
            )
        wants_page = method in ("GET", "HEAD") and "text/html" in (header(scope, b"accept") or "")
        in_api = path.startswith("/v1/")
        if in_api or not (wants_page or self.access.is_page(path)):
            hint = "" if in_api else "the base URL ends in /v1; "
            raise ApiError(
                404,
                f"no such endpoint; {hint}see /v1/models, /v1/chat/completions, /v1/completions",
                code="unknown_endpoint",
            )


class BodyCapMiddleware:
    """Refuses bodies above the cap with 413."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = header(scope, b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > self.max_bytes:
            raise self._too_large()
        received = 0

        async def receive_capped() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self.max_bytes:
                    raise self._too_large()
            return message

        await self.app(scope, receive_capped, send)

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"the body is larger than {self.max_bytes:,} bytes; send less, or raise max_body_bytes",
            code="body_too_large",
            headers={"connection": "close"},
        )


class UnreadBodyMiddleware:
    """Reads the rest of a body, within bounds, when the reply was sent before the body had arrived.

    Closing a connection with unread bytes resets it, and a client that reads only after it has sent
    everything would never see the reply.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _sends_body(scope):
            await self.app(scope, receive, send)
            return
        unread = True

        async def receive_noted() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and message.get("more_body", False)
            return message

        async def send_then_read(message: Message) -> None:
            if not unread or message["type"] != "http.response.body" or message.get("more_body", False):
                await send(message)
                return
            await send({**message, "more_body": True})
            read = 0
            with suppress(TimeoutError):
                async with asyncio.timeout(UNREAD_SECONDS):
                    while unread and read < UNREAD_BYTES:
                        read += len((await receive_noted()).get("body", b""))
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self.app(scope, receive_noted, send_then_read)


def _sends_body(scope: Scope) -> bool:
    """Whether a body comes by itself; who sends `expect` asks first."""
    has_body = header(scope, b"content-length") not in (None, "0") or header(scope, b"transfer-encoding")
    return bool(has_body) and header(scope, b"expect") is None


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has gone. Call only after the body was read."""
    with suppress(ApiError):
        while (await receive())["type"] != "http.disconnect":
            pass
