"""One connection: a request has to arrive whole in time, and its head is bounded.

uvicorn waits for ever for the rest of a request and keeps headers of any length; what cannot be parsed it
answers in plain text. Here all three end in a reply that OpenAI clients read, and a closed connection.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tuition.serve.errors import ApiError, dump_json

ARRIVAL_SECONDS = 60.0
"""How long a request may take to arrive, head and body, from its first byte."""
MAX_HEAD_BYTES = 64 << 10
"""Most bytes of a request line and its headers that are waited for."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection with these bounds."""

    arrival_seconds = ARRIVAL_SECONDS
    _arrival: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_head = self._in_head
        super().data_received(data)
        if was_in_head and self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(
                    431, f"the head of the request is larger than {MAX_HEAD_BYTES:,} bytes", "head_too_large"
                )

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._wait()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._arrived()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._arrived()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg, "invalid_http")

    def _wait(self) -> None:
        self._arrived()
        self._arrival = self.loop.call_later(self.arrival_seconds, self._too_late)

    def _arrived(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _too_late(self) -> None:
        self._arrival = None
        if self.scope is None:  # not a byte came: nobody asked anything
            self.transport.close()
            return
        if self.pipeline or (self._in_head and self._is_replying):
            self._wait()  # it waits behind an earlier reply, and reading may be paused
            return
        seconds = self.arrival_seconds
        self._refuse(408, f"the request did not arrive whole within {seconds:g} seconds", "request_timeout")

    @property
    def _is_replying(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answer, unless another reply is on its way already, and close."""
        self._arrived()
        if self.transport.is_closing():
            return
        if not self._is_replying or not self.cycle.response_started:
            body = dump_json(ApiError(status, message, code=code).payload).encode()
            head = (
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()
