"""A client of one server, over its public HTTP API.

In: a conversation or a text.  Out: the pieces of the reply as they arrive (`client/reply` folds them); a
`ClientError` that says what a reader can do.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from tuition.client.errors import ClientError, sentence
from tuition.client.events import DONE, event_data, read_cost, read_piece
from tuition.client.reply import Piece, Reply

CONNECT_TIMEOUT_S = 10.0
CONTEXT_EXCEEDED = "context_length_exceeded"
DEFAULT_CONTINUATION = 256
"""Tokens by which a text is continued when the caller sets no limit: a base model rarely ends by itself."""
UNREACHABLE = "The server cannot be reached. Is it still running?"
BROKEN_OFF = "The connection to the server was lost before the reply ended. Try again."


@dataclass(frozen=True, slots=True)
class BusyHour:
    """What an hour of a model's work costs, if it works for one reply alone."""

    usd: float
    energy_wh: float


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the server offers."""

    name: str
    has_chat: bool
    """False: it has no chat template and continues text."""
    context_length: int | None
    busy_hour: BusyHour | None = None
    """None: the server does not say, so nothing is estimated before the bill."""
    sampling: Mapping[str, float] = field(default_factory=dict)
    """The model's own sampling settings, which hold where a request names none."""


class Api:
    """A client of one server. Use it as an async context manager, or `close` it."""

    def __init__(self, base_url: str, api_key: str | None) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key is not None else {}
        timeout = httpx.Timeout(CONNECT_TIMEOUT_S, read=None)
        base_url = base_url.rstrip("/").removesuffix("/v1")
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)  # a stream holds one
        self._http = httpx.AsyncClient(
            base_url=base_url, headers=headers, timeout=timeout, limits=limits, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def models(self) -> list[Model]:
        """What the server offers. Raises: ClientError."""
        reply = await self._get("/v1/models")
        return [_model(row) for row in reply["data"]]

    async def digest(self, model: str) -> dict[str, Any]:
        """`recorded` when the weights were loaded, `recomputed` now from the weights in the server's memory.

        Raises: ClientError.
        """
        return await self._get(f"/v1/models/{quote(model)}/digest")

    async def bill(self, model: str | None = None) -> dict[str, Any]:
        """The statement of one model or of all. Raises: ClientError."""
        return await self._get("/v1/bill" if model is None else f"/v1/bill?model={quote(model, safe='')}")

    async def receipt(self, request_id: str) -> Piece | None:
        """What a call has cost, whether or not its reply came to its end; None until it is booked."""
        try:
            row = await self._get(f"/v1/receipts/{quote(request_id, safe='')}")
        except ClientError:
            return None
        return Piece(
            num_prompt_tokens=row["prompt_tokens"],
            num_generated=row["completion_tokens"],
            cost=read_cost(row),
        )

    async def answer(self, path: str, body: Mapping[str, Any]) -> Reply:
        """The whole reply to one request, as it is asked: nothing is left out to make it fit.

        Raises: ClientError, also where the answer is not of the protocol.
        """
        row = await self._send("POST", path, dict(body))
        try:
            choice, usage = row["choices"][0], row.get("usage") or {}
            text = choice["message"]["content"] if "message" in choice else choice["text"]
        except (KeyError, IndexError, TypeError) as error:
            raise ClientError(f"{path} answered without a reply ({error!r}).") from error
        return Reply(
            text=text or "",
            num_prompt_tokens=usage.get("prompt_tokens") or 0,
            num_generated=usage.get("completion_tokens") or 0,
            num_cached=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
            cost=read_cost(usage) if "cost_usd" in usage else None,
            finish_reason=choice.get("finish_reason"),
        )

    async def chat(
        self, model: Model, messages: Sequence[Mapping[str, str]], settings: Mapping[str, Any]
    ) -> AsyncIterator[Piece]:
        """Stream the next turn of a conversation. Raises: ClientError.

        What does not fit the model's context is given up in this order: the wished length of the reply
        (what is left of the context is taken), then the oldest turns after the system message, which a remark
        tells.
        """
        body: dict[str, Any] = {"model": model.name, **settings}
        opening = list(messages[:1]) if messages and messages[0]["role"] == "system" else []
        turns = list(messages[len(opening) :])
        remark = None
        while True:
            try:
                told = body | {"messages": [*opening, *turns]}
                async for piece in self._stream("/v1/chat/completions", told):
                    yield piece if remark is None else replace(piece, remark=remark)
                    remark = None
                return
            except ClientError as error:
                if error.code != CONTEXT_EXCEEDED:
                    raise
                if "max_tokens" not in body and len(turns) < 2:
                    raise ClientError(_too_long(model), error.code) from error
            if body.pop("max_tokens", None) is None:
                turns = turns[2:] or turns[-1:]
                remark = "The beginning of the conversation no longer fits and was left out."

    async def complete(self, model: Model, prompt: str, settings: Mapping[str, Any]) -> AsyncIterator[Piece]:
        """Stream the continuation of a text; of one that is too long, of its end. Raises: ClientError."""
        reply = await self._send("POST", "/tokenize", {"model": model.name, "prompt": prompt})
        tokens, context = reply["tokens"], model.context_length or reply["max_model_len"]
        wished = settings.get("max_tokens", DEFAULT_CONTINUATION)
        kept = tokens[-(context - min(wished, context // 2)) :]
        if len(kept) < len(tokens):
            yield Piece(remark="Only the end of the text fits what the model can read at once.")
        limit = min(wished, context - len(kept))
        body = {"model": model.name, "prompt": kept, **settings, "max_tokens": limit}
        async for piece in self._stream("/v1/completions", body):
            yield piece

    async def _get(self, path: str) -> Any:
        return await self._send("GET", path, None)

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            reply = await self._http.request(method, path, json=body)
            if reply.status_code != 200:
                raise _refusal(reply.status_code, reply.content)
            return reply.json()
        except httpx.HTTPError as error:
            raise ClientError(UNREACHABLE) from error
        except ValueError as error:
            raise ClientError(f"{path} answered with something else than JSON ({error}).") from error

    async def _stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[Piece]:
        body |= {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        try:
            async with self._http.stream("POST", path, json=body) as reply:
                if reply.status_code != 200:
                    raise _refusal(reply.status_code, await reply.aread())
                yield Piece(request_id=reply.headers.get("x-request-id"))
                async for data in event_data(reply.aiter_bytes()):
                    if data == DONE:
                        return
                    yield read_piece(data)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ClientError(UNREACHABLE) from error
        except (httpx.HTTPError, ValueError) as error:
            raise ClientError(BROKEN_OFF) from error
        raise ClientError(BROKEN_OFF)


def _model(row: dict[str, Any]) -> Model:
    hour = row.get("cost_per_busy_hour")
    return Model(
        name=row["id"],
        has_chat=bool(row.get("has_chat_template")),
        context_length=row.get("context_length"),
        busy_hour=None if hour is None else BusyHour(hour["usd"], hour["energy_wh"]),
        sampling={
            name: value for name, value in (row.get("sampling_defaults") or {}).items() if value is not None
        },
    )


def _too_long(model: Model) -> str:
    reads = "" if model.context_length is None else f", which reads at most {model.context_length:,} tokens"
    return f"This message is too long for {model.name}{reads}. Send a shorter one."


def _refusal(status: int, content: bytes) -> ClientError:
    try:
        error = json.loads(content)["error"]
        return ClientError(sentence(str(error["message"])), error.get("code"))
    except (ValueError, KeyError, TypeError):
        return ClientError(f"The server answered with status {status}.")
