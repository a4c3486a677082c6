"""One HTTP/1 connection: bounds on how a request arrives, and what becomes of an offered upgrade.

uvicorn waits without limit for the rest of a request, keeps headers of any length and answers what it cannot
parse in plain text. Here all three end in a reply that OpenAI clients can read, and a closed connection.

An offered upgrade (h2c, WebSocket or anything else) is ignored, as HTTP allows: the request is read and
answered as if it offered none. The exception is a WebSocket handshake on a path that takes WebSockets.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
from starlette.types import Message, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from tuition.serve.errors import ApiError, dump_json, overloaded

ARRIVAL_SECONDS = 60.0
"""How long a request may take to arrive, head and body, from its first byte."""
MAX_HEAD_BYTES = 64 << 10
"""Most bytes of a request line and its headers that are waited for."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection with these rules."""

    arrival_seconds = ARRIVAL_SECONDS

    def __init__(self, *args: Any, takes_websocket: Callable[[str], bool], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._takes_websocket = takes_websocket
        self._arrival: asyncio.TimerHandle | None = None
        self._answered: RequestResponseCycle | None = None
        self._in_head = False
        self._head_bytes = 0

    # ---- from the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True  # uvicorn tells only the newest request of a pipeline
            self._answered.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_head = self._in_head
        self._unset_keepalive_if_required()
        self._parse(data)
        if was_in_head and self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                message = f"the head of the request is larger than {MAX_HEAD_BYTES:,} bytes"
                self._refuse(ApiError(431, message, code="head_too_large"))

    # ---- from the server

    def shutdown(self) -> None:
        """Close when idle, refuse a request that has not arrived whole, let a reply under way end."""
        if self._is_replying and self.cycle.more_body:
            self._refuse(overloaded("the server is stopping; try another one, or again later", 5))
        else:
            super().shutdown()

    # ---- from the parser

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._wait()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.parser.should_upgrade():  # `_parse` decides when the parser has paused
            self.scope["http_version"] = self.parser.get_http_version()
            return
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            self.cycle.send = _without_chunks(self.cycle)  # type: ignore[method-assign]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._arrived()
        super().on_message_complete()

    def _parse(self, data: bytes) -> None:
        """Feed the parser. It pauses behind the head of a request that offers an upgrade, and skips the body:
        such a head is fed again without the offer, in front of the bytes that came behind it."""
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as pause:
                rest = data[pause.args[0] :]
                method = self.parser.get_method()
            except httptools.HttpParserError:
                self._refuse(ApiError(400, "the request is not valid HTTP/1.1", code="invalid_http"))
                return
            if method == b"CONNECT":
                self._refuse(ApiError(405, "this server is not a proxy", code="method_not_allowed"))
                return
            if self._is_websocket_handshake(method):
                self._switch_to_websocket(rest)
                return
            data = self._head(method, without=b"upgrade") + rest
            self.parser = httptools.HttpRequestParser(
                self
            )  # the old one may wait for the connection to close
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    # ---- upgrades

    def _is_websocket_handshake(self, method: bytes) -> bool:
        headers = dict(self.headers)
        offers = [offer.strip().lower() for offer in headers.get(b"upgrade", b"").split(b",")]
        has_body = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        if (
            method != b"GET"
            or self.scope["http_version"] != "1.1"
            or b"websocket" not in offers
            or not {b"sec-websocket-key", b"sec-websocket-version"} <= headers.keys()
            or has_body
            or self._is_replying
        ):
            return False
        try:
            path = httptools.parse_url(self.url).path
        except httptools.HttpParserInvalidURLError:
            return False
        return path is not None and self._takes_websocket(path.decode("ascii", "replace"))

    def _switch_to_websocket(self, rest: bytes) -> None:
        """Hand the connection over, with what came behind the handshake."""
        self._arrived()
        self.connections.discard(self)
        protocol = WebSocket(self.config, self.server_state, self.app_state)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        protocol.data_received(self._head(b"GET"))
        if rest and not self.transport.is_closing():
            protocol.data_received(rest)

    def _head(self, method: bytes, without: bytes | None = None) -> bytes:
        """The head of the request as it came, except the headers named `without`."""
        version = self.scope["http_version"].encode()
        lines = [method + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != without]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    # ---- bounds

    def _wait(self) -> None:
        self._arrived()
        self._arrival = self.loop.call_later(self.arrival_seconds, self._too_late)

    def _arrived(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _too_late(self) -> None:
        self._arrival = None
        if self.scope is None:  # no byte came, so there is nothing to answer
            self.transport.close()
            return
        if self.pipeline or (self._in_head and self._is_replying):
            self._wait()  # it waits behind an earlier reply, and reading may be paused
            return
        message = f"the request did not arrive whole within {self.arrival_seconds:g} seconds"
        self._refuse(ApiError(408, message, code="request_timeout"))

    @property
    def _is_replying(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _is_arriving(self) -> bool:
        """The newest request's body has not arrived whole, and it has no reply yet."""
        return self._is_replying and self.cycle.more_body and not self.cycle.response_started

    def _refuse(self, error: ApiError) -> None:
        """Answer the request at hand and close. While an earlier request is being answered, only close behind
        its reply."""
        self._arrived()
        if self.transport.is_closing():
            return
        if self._is_replying and not self.cycle.more_body:
            self.cycle.keep_alive = False
            return
        if not self._is_replying or self._is_arriving:
            _write_error(self.transport, error)
        self.transport.close()


class WebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which raises on bytes that it did not expect; here that ends the connection, and a
    handshake at fault gets an answer."""

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception:
            if self.handshake_initiated:
                self.transport.abort()
            else:
                message = "the WebSocket handshake is not valid"
                _write_error(self.transport, ApiError(400, message, code="invalid_http"))
                self.transport.close()

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except Exception:  # the client is closing it as well
            self.transport.abort()


def _write_error(transport: asyncio.Transport, error: ApiError) -> None:
    body = dump_json(error.payload).encode()
    headers = error.headers | {"content-type": "application/json", "connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head += f"content-length: {len(body)}\r\n\r\n"
    transport.write(STATUS_LINE[error.status] + head.encode() + body)


def _without_chunks(cycle: RequestResponseCycle) -> Send:
    """`cycle.send` for HTTP/1.0, which has no chunked encoding: a reply of undeclared length ends with the
    connection. uvicorn frames every such reply in chunks unless it believes that the length was declared."""
    send, has_length = cycle.send, True

    async def send_without_chunks(message: Message) -> None:
        nonlocal has_length
        if message["type"] == "http.response.start":
            has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", []))
            cycle.chunked_encoding = None if has_length else False
        elif not has_length:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)  # type: ignore[arg-type]

    return send_without_chunks
