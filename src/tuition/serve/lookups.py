"""The endpoints that make no tokens: health, models, metrics, the bill, and the tokenizer's own."""

import asyncio
import dataclasses
import math
import time
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection, text
from starlette.requests import Request
from starlette.responses import Response

from tuition.core.amount import NOTHING
from tuition.core.errors import NotFoundError, RequestError, TuitionError
from tuition.core.units import NUSD_PER_USD, UJ_PER_WH
from tuition.ledger.account import Account
from tuition.ledger.render import provenance
from tuition.ledger.statements import call_receipts, statement
from tuition.serve.context import ServeContext, ServedModel
from tuition.serve.errors import ApiError, dump_json, json_response
from tuition.serve.metrics import Metrics
from tuition.serve.prompts import check_token_ids
from tuition.serve.routes import (
    APART_BYTES,
    LARGE_BODY_BYTES,
    in_turns,
    off_loop,
    read_body,
    read_fields,
    wanted_text,
)

PROBE_EVERY_S = 1.0
"""Least time between two test writes to the books."""


def _write_nothing_new(connection: Connection) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = version_num"))


class Lookups:
    """Questions about the server, its models and their bills."""

    def __init__(self, context: ServeContext, metrics: Metrics) -> None:
        self.context, self._metrics = context, metrics
        self._probe, self._probed = asyncio.Lock(), -math.inf
        self._problem: str | None = None

    async def health(self) -> Response:
        """The process answers."""
        return json_response({"status": "ok"})

    async def ready(self) -> Response:
        """New work is taken; 503 with the reason while the server stops, an engine has failed, or the books
        cannot be written."""
        reason = await self._reason_not_ready()
        if reason is None:
            return json_response({"status": "ready"})
        status, detail = reason
        return json_response({"status": status, "reason": detail}, 503, {"retry-after": "5"})

    async def _reason_not_ready(self) -> tuple[str, str] | None:
        if self.context.gate.draining:
            return "draining", "the server is stopping"
        for name, model in self.context.models.items():
            if getattr(model.service.stats(), "state", "running") != "running":
                return "engine stopped", f"the engine of {name} does not run"
        async with self._probe:  # one write for all who ask at once
            if time.monotonic() - self._probed > PROBE_EVERY_S:
                self._problem = await self._books_problem()
                self._probed = time.monotonic()
        return None if self._problem is None else ("books unavailable", self._problem)

    async def _books_problem(self) -> str | None:
        """Why a finished reply could not be booked now: tried by a write that changes nothing."""
        try:
            written = asyncio.wrap_future(self.context.books.write(_write_nothing_new))
            await asyncio.wait_for(written, self.context.settings.books_timeout_seconds)
        except TimeoutError:
            return "the books did not take a write in time"
        except TuitionError as error:
            return str(error).replace(f" at {self.context.books.name}", "")  # anybody may ask
        return None

    async def metrics(self) -> Response:
        """Figures for Prometheus."""
        return Response(self._metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self) -> Response:
        """GET /v1/models."""
        data = [describe(model) for model in self.context.models.values()]
        return json_response({"object": "list", "data": data})

    async def model(self, model_id: str) -> Response:
        """GET /v1/models/{id}; ids may contain slashes."""
        return json_response(describe(self.context.model(model_id)))

    async def digest(self, model_id: str) -> Response:
        """GET /v1/models/{id}/digest: of the weights as this process holds them, made anew at each call.

        `recorded` was made when the weights were loaded; equal digests say that using them changed nothing.
        Of an adapter, both are made of its digest as it was loaded and of that of its base.
        """
        model = self.context.model(model_id)
        if model.runner is None:
            raise ApiError(404, "this model has no weights in this process", code="no_weights")
        recomputed = model.desk.digest_with(await asyncio.to_thread(model.runner.weights_digest))
        return json_response({"id": model.name, "recorded": model.digest, "recomputed": recomputed})

    async def bill(self, request: Request) -> Response:
        """GET /v1/bill, of all models or of one (`?model=`): the statement as JSON."""
        name = request.query_params.get("model")
        if name is not None:
            self.context.model(name)
        sheet = await asyncio.to_thread(statement, self.context.books, name)
        return json_response(dataclasses.asdict(sheet))

    async def receipt(self, request_id: str) -> Response:
        """GET /v1/receipts/{x-request-id}: what a call has cost, whether or not it came to its end."""
        try:
            found = await asyncio.to_thread(call_receipts, self.context.books, request_id)
        except NotFoundError:
            raise ApiError(404, "no call with this id is booked (yet)", code="receipt_not_found") from None
        total = sum((receipt.total for receipt in found), NOTHING)
        return json_response(
            {
                "id": request_id,
                "object": "receipt",
                "model": found[0].model,
                "finish_reasons": [receipt.finish_reason for receipt in found],
                "prompt_tokens": sum(receipt.prompt_tokens for receipt in found),
                "completion_tokens": sum(receipt.generated_tokens for receipt in found),
                "computed_tokens": sum(receipt.cost.computed_tokens for receipt in found),
                "cached_tokens": sum(receipt.cached_tokens for receipt in found if receipt.prompt_tokens),
                "cost_usd": total.usd,
                "energy_wh": total.energy_wh,
                "energy_method": found[0].cost.energy_method,
                "cost_basis": provenance(found[0].machine, "usd_per_hour"),
            }
        )

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize {prompt, add_special_tokens, model} -> {tokens, count}."""
        raw = await read_body(request)
        body = await read_fields(self.context, raw)
        model, prompt = self._model_of(body), wanted_text(body, "prompt")
        with_specials = body.get("add_special_tokens", True)
        if not isinstance(with_specials, bool):
            raise RequestError("add_special_tokens", "wanted true or false")
        add_bos = None if with_specials else False

        def reply() -> bytes:
            if len(raw) > APART_BYTES:
                count, ids = self.context.bodies.encode(model.tokenizer, prompt, add_bos)
            else:
                tokens = model.tokenizer.encode(prompt, add_bos=add_bos)
                count, ids = len(tokens), ",".join(map(str, tokens)).encode()
            rest = dump_json({"count": count, "max_model_len": model.context_length})
            return b'{"tokens":[%s],%s' % (ids, rest[1:].encode())

        shown = await off_loop(self.context, reply, len(raw) > LARGE_BODY_BYTES)
        return Response(shown, media_type="application/json")

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize {tokens, model} -> {prompt}."""
        raw = await read_body(request)
        body = await read_fields(self.context, raw)
        model, tokens = self._model_of(body), body.get("tokens")
        if not isinstance(tokens, list):
            raise RequestError("tokens", "wanted a list of token ids")

        def reply() -> str:
            texts, decoder = list[str](), model.tokenizer.stream(skip_specials=False)
            for some in in_turns(tokens):
                if not all(type(token) is int for token in some):
                    raise RequestError("tokens", "wanted a list of token ids")
                check_token_ids("tokens", some, model)
                texts.append(dump_json(decoder.push_all(some))[1:-1])
            return f'{{"prompt":"{"".join(texts)}{dump_json(decoder.finish())[1:-1]}"}}'

        shown = await off_loop(self.context, reply, len(raw) > LARGE_BODY_BYTES)
        return Response(shown, media_type="application/json")

    async def tokenizer_info(self, request: Request) -> Response:
        """GET /tokenizer_info: what a client needs to work without its own tokenizer."""
        name = request.query_params.get("model")
        model = self._model_of({} if name is None else {"model": name})
        tokenizer = model.tokenizer
        return json_response(
            {
                "model": model.name,
                "vocab_size": tokenizer.vocab_size,
                "bos_token": tokenizer.bos_token,
                "eos_token": tokenizer.eos_token,
                "pad_token": tokenizer.eos_token,
                "bos_token_id": tokenizer.bos_id,
                "eos_token_id": tokenizer.eos_ids[0] if tokenizer.eos_ids else None,
                "chat_template": tokenizer.chat.source if tokenizer.chat is not None else None,
            }
        )

    def _model_of(self, body: dict[str, Any]) -> ServedModel:
        """The model named in the body, else the only one. Raises: RequestError where several are served."""
        if body.get("model") is not None:
            return self.context.model(wanted_text(body, "model"))
        first, *others = self.context.models.values()
        if any(model.parent is None for model in others):  # the adapters of one model have its tokenizer
            names = ", ".join(self.context.models)
            raise RequestError("model", f"is missing; wanted one of {names}")
        return first


def describe(model: ServedModel) -> dict[str, Any]:
    """A model as /v1/models lists it."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.created_unix_s,
        "owned_by": "tuition",
        "parent": model.parent,
        "context_length": model.context_length,
        "version": model.desk.model.version,
        "weights_digest": model.digest,
        "has_chat_template": model.tokenizer.chat is not None,
        "runner": model.runner.name if model.runner is not None else None,
        "sampling_defaults": dataclasses.asdict(model.defaults),
        "cost_per_token": {
            "usd": model.desk.spent.usd_per_token,
            "basis": "mean of what was billed since this server started; null before the first reply",
        },
        "cost_per_busy_hour": busy_hour(model.desk.account),
    }


def busy_hour(account: Account) -> dict[str, Any]:
    """What an hour of work costs, for estimates before the bill. Replies made together share it."""
    machine, rate = account.machine, account.meter.rate
    energy_uj = round(machine.full_watts * UJ_PER_WH)
    return {
        "usd": (rate.nusd_per_hour + rate.of_energy(0, energy_uj)) / NUSD_PER_USD,
        "energy_wh": energy_uj / UJ_PER_WH,
        "basis": f"price {machine.provenance('usd_per_hour')}, energy modelled at full power",
    }


def lookup_routes(context: ServeContext, metrics: Metrics) -> APIRouter:
    """The routes that only look something up."""
    lookups, router, looked_up = Lookups(context, metrics), APIRouter(), ["GET", "HEAD"]
    for path, endpoint, methods in (
        ("/health", lookups.health, looked_up),
        ("/ready", lookups.ready, looked_up),
        ("/metrics", lookups.metrics, looked_up),
        ("/v1/models", lookups.models, looked_up),
        ("/v1/models/{model_id:path}/digest", lookups.digest, looked_up),
        ("/v1/models/{model_id:path}", lookups.model, looked_up),
        ("/v1/receipts/{request_id}", lookups.receipt, looked_up),
        ("/v1/bill", lookups.bill, looked_up),
        ("/tokenize", lookups.tokenize, ["POST"]),
        ("/detokenize", lookups.detokenize, ["POST"]),
        ("/tokenizer_info", lookups.tokenizer_info, looked_up),
    ):
        router.add_api_route(path, endpoint, methods=methods, response_model=None)
    return router
