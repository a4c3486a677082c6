"""The page's way to the server: its public HTTP API over httpx, like any other client.

In: a conversation or a text.  Out: `Piece`s of the reply as they come; a `Failure` that says what a reader
can do.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

CONNECT_TIMEOUT_S = 10.0
CONTEXT_EXCEEDED = "context_length_exceeded"
DEFAULT_CONTINUATION = 256
"""Tokens by which a text is continued when the caller sets no limit: a base model rarely ends by itself."""


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


@dataclass(frozen=True, slots=True)
class Cost:
    """What the server has booked for a reply."""

    cost_usd: float
    energy_wh: float | None
    energy_method: str | None
    cost_basis: str | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Something new about a reply; what has not changed is None."""

    text: str = ""
    num_prompt_tokens: int | None = None
    num_generated: int | None = None
    cost: Cost | None = None
    finish_reason: str | None = None
    request_id: str | None = None
    remark: str | None = None
    """What the reader should know about how the reply was asked for."""


class Failure(Exception):  # noqa: N818 - what a reader is shown, not a defect
    """The reply did not come, or not to its end; the message is for the reader."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class Api:
    """A client of one server."""

    def __init__(self, base_url: str, api_key: str | None) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key is not None else {}
        timeout = httpx.Timeout(CONNECT_TIMEOUT_S, read=None)
        self._http = httpx.AsyncClient(base_url=base_url, headers=headers, timeout=timeout, trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def models(self) -> list[Model]:
        """What the server offers. Raises: Failure."""
        reply = await self._get("/v1/models")
        return [_model(row) for row in reply["data"]]

    async def receipt(self, request_id: str) -> Piece | None:
        """What a reply that was stopped has cost, once it is booked; None before."""
        try:
            row = await self._get(f"/v1/receipts/{request_id}")
        except Failure:
            return None
        return Piece(
            num_prompt_tokens=row["prompt_tokens"], num_generated=row["completion_tokens"], cost=_cost(row)
        )

    async def chat(
        self, model: str, messages: Sequence[Mapping[str, str]], settings: Mapping[str, Any]
    ) -> AsyncIterator[Piece]:
        """Stream the next turn of a conversation. Raises: Failure.

        What does not fit the model's context is given up in this order: the wished length of the reply
        (what is left of the context is taken), then the oldest turns, and that is said.
        """
        body = {"model": model, "messages": list(messages), **settings}
        while True:
            try:
                async for piece in self._stream("/v1/chat/completions", body):
                    yield piece
                return
            except Failure as failure:
                shortest = "max_tokens" not in body and len(body["messages"]) < 2
                if failure.code != CONTEXT_EXCEEDED or shortest:
                    raise
            if body.pop("max_tokens", None) is None:
                body["messages"] = body["messages"][2:] or body["messages"][-1:]
                yield Piece(remark="The beginning of the conversation no longer fits and was left out.")

    async def complete(self, model: Model, prompt: str, settings: Mapping[str, Any]) -> AsyncIterator[Piece]:
        """Stream the continuation of a text; of one that is too long, of its end. Raises: Failure."""
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
                raise _failure(reply.status_code, reply.content)
            return reply.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Failure(_unreachable(error)) from error

    async def _stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[Piece]:
        body |= {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        try:
            async with self._http.stream("POST", path, json=body) as reply:
                if reply.status_code != 200:
                    raise _failure(reply.status_code, await reply.aread())
                yield Piece(request_id=reply.headers.get("x-request-id"))
                async for line in reply.aiter_lines():
                    if line == "data: [DONE]":
                        return
                    if line.startswith("data: "):
                        yield _piece(json.loads(line[6:]))
        except (httpx.HTTPError, ValueError) as error:
            raise Failure(_unreachable(error)) from error
        raise Failure("The reply broke off before its end. Try again.")


def _model(row: dict[str, Any]) -> Model:
    hour = row.get("cost_per_busy_hour")
    busy_hour = None if hour is None else BusyHour(hour["usd"], hour["energy_wh"])
    return Model(row["id"], bool(row.get("has_chat_template")), row.get("context_length"), busy_hour)


def _piece(chunk: dict[str, Any]) -> Piece:
    if "error" in chunk:
        raise Failure(_sentence(str(chunk["error"].get("message", ""))))
    choice = next(iter(chunk.get("choices") or []), {})
    usage = chunk.get("usage") or {}
    return Piece(
        text=choice.get("delta", {}).get("content") or choice.get("text") or "",
        num_prompt_tokens=usage.get("prompt_tokens"),
        num_generated=usage.get("completion_tokens"),
        cost=_cost(usage) if "cost_usd" in usage else None,
        finish_reason=choice.get("finish_reason"),
    )


def _cost(usage: dict[str, Any]) -> Cost:
    return Cost(
        usage["cost_usd"], usage.get("energy_wh"), usage.get("energy_method"), usage.get("cost_basis")
    )


def _failure(status: int, content: bytes) -> Failure:
    try:
        error = json.loads(content)["error"]
        return Failure(_sentence(str(error["message"])), error.get("code"))
    except (ValueError, KeyError, TypeError):
        return Failure(f"The server answered with status {status}.")


def _sentence(message: str) -> str:
    message = message.strip() or "something went wrong"
    return message[0].upper() + message[1:] + ("" if message.endswith((".", "!", "?")) else ".")


def _unreachable(error: Exception) -> str:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return "The server cannot be reached. Is it still running?"
    return "The reply broke off before its end. Try again."
