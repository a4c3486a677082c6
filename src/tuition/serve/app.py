"""The HTTP application.

Endpoints, and around them access, a cap on bodies, request ids and errors in one shape.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs

from fastapi import APIRouter, FastAPI
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tuition.core.errors import SettingsError, TuitionError
from tuition.serve.access import (
    SESSION_COOKIE,
    SESSION_SECONDS,
    SIGN_IN_PATH,
    Access,
    AccessMiddleware,
    sign_in_page,
)
from tuition.serve.adapters import adapter_routes
from tuition.serve.context import ServeContext
from tuition.serve.errors import ApiError, as_api_error, error_response
from tuition.serve.lookups import lookup_routes
from tuition.serve.metrics import Metrics
from tuition.serve.middleware import (
    BodyCapMiddleware,
    EndpointMiddleware,
    RequestIdMiddleware,
    UnreadBodyMiddleware,
)
from tuition.serve.routes import generating_routes
from tuition.serve.settings import check_exposure

log = logging.getLogger("tuition.serve")


def create_app(context: ServeContext) -> FastAPI:
    """The application over `context`. `app.state.access` is its `Access`, to which pages are made known.

    Raises: SettingsError if it would be open to the network without a key, or has no model; BooksError.
    """
    check_exposure(context.settings, context.api_key)
    if not context.models:
        raise SettingsError("models", got="none", wanted="at least one model to serve")
    desks = [model.desk for model in context.models.values()]
    metrics, access = Metrics(context), Access(context.settings, context.api_key)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.gather(*(asyncio.to_thread(desk.open) for desk in desks))
        await asyncio.to_thread(lambda: context.body_limits)  # reads the tokenizers, while no stream waits
        yield
        await asyncio.to_thread(context.bodies.close)
        unsettled = await context.gate.settle(context.settings.books_timeout_seconds)
        if unsettled:
            log.error("%d requests could not be booked before the end", unsettled)
        try:
            await asyncio.gather(*(asyncio.to_thread(desk.close) for desk in desks))
        except TuitionError as error:
            log.error("idle time was not booked: %s", type(error).__name__)

    app = FastAPI(title="tuition", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.access = access
    app.add_exception_handler(ApiError, _known_error)
    app.add_exception_handler(TuitionError, _known_error)
    app.add_exception_handler(HTTPException, _http_error)
    pages = APIRouter()
    pages.add_api_route(SIGN_IN_PATH, _sign_in, methods=["POST"], response_model=None)
    routers = (
        generating_routes(context, metrics),
        lookup_routes(context, metrics),
        adapter_routes(context),
        pages,
    )
    for router in routers:
        app.include_router(router)
    # Added last runs first: the rest of unread bodies, cross-origin rules, which errors need as well, then
    # ids and errors, then access, then paths and methods, then the cap on bodies.
    app.add_middleware(BodyCapMiddleware, max_bytes=context.settings.max_body_bytes)
    routes = [route for router in routers for route in router.routes]
    app.add_middleware(EndpointMiddleware, routes=routes, access=access)
    app.add_middleware(AccessMiddleware, access=access)
    app.add_middleware(RequestIdMiddleware, observe=metrics.observe)
    if context.settings.cors_origins:
        app.add_middleware(
            _CrossOrigin,
            allow_origins=context.settings.cors_origins,
            allow_private_network=True,  # loopback counts as private; the origins are named
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", "x-tuition-cost-usd", "x-tuition-energy-wh"],
        )
    app.add_middleware(UnreadBodyMiddleware)
    return app


class _CrossOrigin(CORSMiddleware):
    """Refusals of a preflight in the shape of every error."""

    def preflight_response(self, request_headers: Headers) -> Response:
        reply = super().preflight_response(request_headers)
        if reply.status_code == 200:
            return reply
        message = "pages of this origin may not call this server so; see cors_origins in its settings"
        return error_response(ApiError(403, message, code="origin_not_allowed"))


async def _known_error(request: Request, error: Exception) -> Response:
    return error_response(as_api_error(error, request.state.request_id))


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    messages = {404: "no such path", 405: "this path does not take this method"}
    codes = {404: "unknown_path", 405: "method_not_allowed"}
    message = messages.get(status, "the request cannot be served")
    headers = dict(getattr(error, "headers", None) or {})
    return error_response(ApiError(status, message, code=codes.get(status), headers=headers))


async def _sign_in(request: Request) -> Response:
    """The form of the sign-in page: a right key buys a session cookie, which opens pages and nothing else."""
    access: Access = request.app.state.access
    try:
        form = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=4)
    except ValueError:  # more fields than any form of ours has
        form = {}
    if not access.is_key(form.get("key", [""])[0]):
        return sign_in_page("That key is not valid here.")
    reply = RedirectResponse("/", status_code=303)
    reply.set_cookie(
        SESSION_COOKIE,
        access.new_session(),
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return reply
