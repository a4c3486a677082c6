"""The generating endpoints: from a body to a call, and its reply, whole or streamed."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tuition.core.errors import RequestError
from tuition.serve.body import parse_body
from tuition.serve.bounds import check_sizes
from tuition.serve.calls import Call
from tuition.serve.context import ServeContext, ServedModel
from tuition.serve.errors import ApiError
from tuition.serve.metrics import Metrics
from tuition.serve.prompts import Caller, Prepared, prepare_chat, prepare_completion, salt_of
from tuition.serve.protocol import ChatRequest, Common, CompletionRequest, StreamOptions, read_request
from tuition.serve.replies import ChatDialect, CompletionDialect, Dialect
from tuition.serve.stream import CLIENT_CLOSED, StreamedReply, whole_reply

R = TypeVar("R")
Body = TypeVar("Body", bound=Common)

LARGE_BODY_BYTES = 16 << 10
"""Bodies above this are read and encoded in a thread of their own, one at a time, so that other streams and
small calls go on meanwhile."""
APART_BYTES = 64 << 10
"""Bodies above this are parsed and validated in a process of their own: here, each value in them would take
time from the streams."""

_SLICE = 2_000
_PAUSE_S = 0.0005


async def read_body(request: Request) -> bytes:
    """The raw body. Raises: ApiError if it is not declared as plain JSON, or the client went away."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415, "send the body as JSON, with content-type: application/json", code="unsupported_media_type"
        )
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise ApiError(
            415,
            f"the body is encoded as {coding[:40]!r}; send it without a content-encoding",
            code="unsupported_encoding",
            headers={"accept-encoding": "identity"},
        )
    try:
        return await request.body()
    except ClientDisconnect:
        raise ApiError(CLIENT_CLOSED, "the client went away while it was sending", code="closed") from None


async def off_loop(context: ServeContext, fn: Callable[[], R], heavy: bool) -> R:
    """Run `fn` here when it is quick; when it is not, in the lane of large bodies."""
    return await asyncio.get_running_loop().run_in_executor(context.lane, fn) if heavy else fn()


def in_turns(items: Sequence[R]) -> Iterator[Sequence[R]]:
    """Slices of many items, for a thread that works long on them: others get the interpreter in between."""
    for begin in range(0, len(items), _SLICE):
        if begin:
            time.sleep(_PAUSE_S)
        yield items[begin : begin + _SLICE]


async def read_fields(context: ServeContext, raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`, of an endpoint that does not generate. Raises: RequestError, ApiError."""
    if len(raw) <= APART_BYTES:
        return parse_body(raw)
    return await off_loop(context, lambda: context.bodies.fields(raw), True)


class Endpoints:
    """The generating endpoints of one server."""

    def __init__(self, context: ServeContext, metrics: Metrics) -> None:
        self.context, self.metrics = context, metrics
        self._salt = salt_of(context.api_key)

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""

        def dialect(body: ChatRequest, model: ServedModel, prepared: Prepared) -> Dialect:
            return ChatDialect(model.tokenizer, bool(body.logprobs))

        return await self._generate(request, ChatRequest, prepare_chat, dialect, always_off_loop=True)

    async def completion(self, request: Request) -> Response:
        """POST /v1/completions."""

        def dialect(body: CompletionRequest, model: ServedModel, prepared: Prepared) -> Dialect:
            return CompletionDialect(model.tokenizer, prepared, body.logprobs is not None, body.logprobs or 0)

        return await self._generate(request, CompletionRequest, prepare_completion, dialect)

    async def _generate(
        self,
        request: Request,
        kind: type[Body],
        prepare: Callable[[Body, Caller], Prepared],
        dialect_of: Callable[[Body, ServedModel, Prepared], Dialect],
        *,
        always_off_loop: bool = False,
    ) -> Response:
        context, request_id = self.context, request.state.request_id
        context.gate.admit()
        raw = await read_body(request)
        heavy = len(raw) > LARGE_BODY_BYTES
        body = await off_loop(context, lambda: self._read(kind, raw, heavy), heavy)
        model = context.model(body.model)
        caller = Caller(request_id, model, context.settings, self._salt)
        if always_off_loop and not heavy:
            prepared = await asyncio.to_thread(prepare, body, caller)
        else:
            prepared = await off_loop(context, lambda: prepare(body, caller), heavy)
        context.gate.admit()
        context.model(body.model)  # it may have been removed meanwhile
        dialect = dialect_of(body, model, prepared)
        call = Call(context, self.metrics, model, prepared, request_id)
        call.start()
        head = {
            "id": dialect.id_prefix + request_id.removeprefix("req_"),
            "object": "",
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": f"fp_{model.digest[:16]}",
        }
        if body.stream:
            return StreamedReply(call, dialect, head, body.stream_options or StreamOptions())
        return await whole_reply(call, dialect, head, request.receive)

    def _read(self, kind: type[Body], raw: bytes, heavy: bool) -> Body:
        if len(raw) > APART_BYTES:
            return self.context.bodies.read(kind, raw, self.context.body_limits)
        fields = parse_body(raw)
        if heavy:
            check_sizes(fields, self.context.body_limits)
        return read_request(kind, fields)


def generating_routes(context: ServeContext, metrics: Metrics) -> APIRouter:
    """The routes that make tokens."""
    endpoints, router = Endpoints(context, metrics), APIRouter()
    router.add_api_route("/v1/chat/completions", endpoints.chat, methods=["POST"], response_model=None)
    router.add_api_route("/v1/completions", endpoints.completion, methods=["POST"], response_model=None)
    return router


def wanted_text(body: dict[str, object], field: str) -> str:
    """A required string of a small body. Raises: RequestError."""
    value = body.get(field)
    if not isinstance(value, str):
        raise RequestError(field, "is missing; wanted a string" if value is None else "wanted a string")
    return value
