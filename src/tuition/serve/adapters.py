"""Endpoints that add and remove adapters while the server runs.

By registered name only: no path comes from the network. The endpoints have vLLM's names; access is
as for the rest of the API: with the key if there is one, else from this machine only (serve/access).
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tuition.core.errors import BusyError, CapacityError, ModelError, RequestError, UnsupportedField
from tuition.desk.engine import Engine
from tuition.desk.references import LoadedAdapter
from tuition.engine.service import EngineService
from tuition.serve.context import ServeContext, ServedModel
from tuition.serve.errors import ApiError, json_response
from tuition.serve.lookups import describe
from tuition.serve.routes import read_body, read_fields, wanted_text

log = logging.getLogger("tuition.serve")

LONGEST_WAIT_S = 3_600.0
_POLL_S = 0.05


def serve_adapter(models: Iterable[ServedModel], reference: str) -> ServedModel:
    """Add a registered adapter to the engine of its base; waits for the end of the current step.

    Raises: NotFoundError; SettingsError for a model; ModelError where its base is not served; RequestError
    for a name that is taken.
    """
    served = list(models)
    engine, service, loaded = _find_base(served, reference)
    name = loaded.identity.name
    if any(model.name == name for model in served):
        raise RequestError("lora_name", f"{name!r} is served already; remove it first")
    service.add_variant(name, loaded.variant)
    return ServedModel.of(engine, service, engine.admit_adapter(loaded))


def _find_base(served: list[ServedModel], reference: str) -> tuple[Engine, EngineService, LoadedAdapter]:
    """The first engine whose model is the adapter's base. Raises: as `serve_adapter`."""
    refusal: Exception = ModelError(reference, "has no engine to run in", way_out="serve its base")
    for model in served:
        if model.engine is None or not isinstance(model.service, EngineService):
            continue
        try:
            return model.engine, model.service, model.engine.prepare_adapter(reference)
        except ModelError as error:
            refusal = error
    raise refusal


class Adapters:
    """The endpoints that change which adapters are served."""

    def __init__(self, context: ServeContext) -> None:
        self.context, self._turn = context, asyncio.Lock()

    async def load(self, request: Request) -> Response:
        """POST /v1/load_lora_adapter {lora_name}: `name` or `name@version` of a registered adapter."""
        body = await self._body(request, ("lora_name",))
        name, most = wanted_text(body, "lora_name"), self.context.settings.max_adapters
        async with self._turn:
            models = self.context.models
            count = sum(model.parent is not None for model in models.values())
            if count >= most:
                raise CapacityError(
                    "one more adapter", need=count + 1, free=most, unit="adapters",
                    way_out="remove one, or raise max_adapters",
                )  # fmt: skip
            try:
                model = await asyncio.to_thread(serve_adapter, models.values(), name)
            except ModelError as error:  # its text may hold a path
                log.warning("the adapter %s was refused: %s", name[:120], error)
                problem = "is no adapter of a model that is served here; the server's log says more"
                raise RequestError("lora_name", problem) from None
            self.context.add(model)
        log.info("adapter %s was added", model.name)
        return json_response(describe(model))

    async def unload(self, request: Request) -> Response:
        """POST /v1/unload_lora_adapter {lora_name, wait_seconds}: refuse while requests use it (0, the
        default), or take no new ones and wait for those."""
        body = await self._body(request, ("lora_name", "wait_seconds"))
        name, wait_s = wanted_text(body, "lora_name"), body.get("wait_seconds", 0)
        if (
            not isinstance(wait_s, int | float)
            or isinstance(wait_s, bool)
            or not 0 <= wait_s <= LONGEST_WAIT_S
        ):
            raise RequestError("wait_seconds", f"wanted 0 to {LONGEST_WAIT_S:,.0f} seconds")
        async with self._turn:
            model = self.context.model(name)
            if model.engine is None or model.variant is None or model.desk is model.engine.desk:
                raise RequestError("lora_name", f"{name!r} is a model, not an added adapter")
            self.context.remove(name)
            try:
                await self._remove(model, time.monotonic() + wait_s)
            except BaseException:
                self.context.add(model)
                raise
        log.info("adapter %s was removed", name)
        return json_response({"id": name, "object": "model", "deleted": True})

    async def _remove(self, model: ServedModel, deadline: float) -> None:
        """Raises: ApiError while requests still use it at the deadline."""
        engine, service = model.engine, model.service
        if engine is None or not isinstance(service, EngineService):
            raise RequestError("lora_name", "is not an adapter of an engine in this process")
        while True:
            try:
                await asyncio.to_thread(service.remove_variant, model.name)
                engine.dismiss_adapter(model.name)
                return
            except BusyError as error:
                if time.monotonic() >= deadline:
                    way_out = "send wait_seconds to wait for them, or try again"
                    raise ApiError(
                        409, f"requests use {model.name!r}; {way_out}", code="adapter_in_use"
                    ) from error
            await asyncio.sleep(_POLL_S)

    async def _body(self, request: Request, fields: tuple[str, ...]) -> dict[str, Any]:
        """The body's fields, which must be these. Raises: RequestError, UnsupportedField; ApiError while the
        server stops."""
        self.context.gate.admit()
        body = await read_fields(self.context, await read_body(request))
        if body.get("lora_path") is not None:
            raise UnsupportedField("lora_path", "lora_name alone, with the name of a registered adapter")
        for field in body:
            if field not in (*fields, "lora_path"):
                raise RequestError(field[:128], f"is unknown; wanted {' and '.join(fields)}")
        return body


def adapter_routes(context: ServeContext) -> APIRouter:
    """The routes that add and remove adapters."""
    adapters, router = Adapters(context), APIRouter()
    for path, endpoint in (
        ("/v1/load_lora_adapter", adapters.load),
        ("/v1/unload_lora_adapter", adapters.unload),
    ):
        router.add_api_route(path, endpoint, methods=["POST"], response_model=None)
    return router
