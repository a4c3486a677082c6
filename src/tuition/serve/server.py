"""Run the application until a signal, or until somebody closes the gate of its context.

The first SIGTERM or SIGINT closes it: readiness fails, new calls get 503 with Retry-After, replies under way
may end. When the time for that is over, or with a second signal, the rest is ended with an error event. Only
then does the server stop listening.
"""

import asyncio
import gc
import logging
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from tuition.core.errors import SettingsError
from tuition.serve.app import create_app
from tuition.serve.connection import Connection
from tuition.serve.context import ServeContext
from tuition.serve.settings import ServeSettings

log = logging.getLogger("tuition.serve")
GRACE_S = 0.6
"""For the last error events to leave after the drain limit."""
TICK_S = 0.02
"""How often a draining server looks whether it is done."""


class _Server(uvicorn.Server):
    """uvicorn, draining through the gate instead of only closing its sockets."""

    def __init__(self, config: uvicorn.Config, context: ServeContext) -> None:
        super().__init__(config)
        self.context = context
        self.serving_loop: asyncio.AbstractEventLoop | None = None
        self.on_started: Callable[[], None] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.serving_loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            self.on_started()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; True ends the server."""
        return await super().on_tick(counter) or self.context.gate.draining

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let calls under way end while new ones are refused, then close everything and book the rest."""
        loop, gate = asyncio.get_running_loop(), self.context.gate
        until = loop.time() + self.context.settings.drain_seconds
        while gate.num_calls and not gate.aborting and loop.time() < until:
            await asyncio.sleep(TICK_S)
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        self._for_each_connection(lambda connection: connection.shutdown())
        while self._is_busy and not gate.aborting and loop.time() < until:
            await asyncio.sleep(TICK_S)
        gate.abort()
        until = loop.time() + GRACE_S
        while self._is_busy and loop.time() < until:
            await asyncio.sleep(TICK_S)
        self._for_each_connection(lambda connection: connection.transport.abort())
        if self._is_busy:
            await asyncio.sleep(TICK_S)  # replies learn that their client is gone
        for task in list(self.server_state.tasks):
            task.cancel()
        await self.lifespan.shutdown()

    @property
    def _is_busy(self) -> bool:
        return bool(self.server_state.connections or self.server_state.tasks)

    def _for_each_connection(self, act: Callable[[Any], None]) -> None:
        """One that fails must not keep the others from ending, nor their replies from being booked."""
        for connection in list(self.server_state.connections):
            try:
                act(connection)
            except Exception as error:
                log.error("a connection could not be closed: %s", type(error).__name__)
                connection.transport.abort()
                self.server_state.connections.discard(connection)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Any further one: end what is under way."""
        gate = self.context.gate
        if not gate.draining:
            gate.begin_drain()
        elif self.serving_loop is not None:
            self.serving_loop.call_soon_threadsafe(gate.abort)


def _server(context: ServeContext, app: FastAPI | None) -> _Server:
    app = app or create_app(context)
    config = uvicorn.Config(
        app,
        http=partial(Connection, takes_websocket=app.state.access.is_page),  # type: ignore[arg-type]
        ws="none",
        loop="uvloop",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
    )
    return _Server(config, context)


def bind(settings: ServeSettings) -> socket.socket:
    """A listening socket at the settings' address. Raises: SettingsError if it is taken or not ours."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host.strip("[]"), settings.port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        wanted = f"a free address of this machine ({error.strerror}); choose another --port or --host"
        raise SettingsError("port", got=f"{settings.host}:{settings.port}", wanted=wanted) from error
    listener.setblocking(False)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - how to reach it, not where it listens
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(
    context: ServeContext,
    *,
    app: FastAPI | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
    listener: socket.socket | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or `context.gate.begin_drain()` in any thread; then drain and return.

    Signals are taken in the main thread only. `on_ready` is called with the server's URL once it listens. The
    models and books stay open.
    Raises: SettingsError if the address cannot be used.
    """
    server = _server(context, app)
    bound = listener or bind(context.settings)
    server.on_started = lambda: on_ready(_url(bound))
    gc.collect()
    gc.freeze()  # else each full collection walks through all of torch, and every stream waits for it
    try:
        server.run(sockets=[bound])
    finally:
        gc.unfreeze()
        bound.close()
