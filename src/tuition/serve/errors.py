"""Errors as OpenAI clients read them.

Status, `{"error": {message, type, param, code}}`, and headers to retry by.
"""

import json
import math
from typing import Any

from starlette.responses import Response

from tuition.core.errors import (
    BooksError,
    BusyError,
    CapacityError,
    NotFoundError,
    RequestError,
    TuitionError,
    UnsupportedField,
)


class ApiError(Exception):
    """What a client is told. The message never holds a prompt, a key or a traceback."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.param = status, message, kind, code, param
        self.headers = headers or {}

    @property
    def payload(self) -> dict[str, Any]:
        """The body, or the last event of a stream that broke."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def unauthorized() -> ApiError:
    """No key, or a wrong one; the two are not told apart."""
    return ApiError(
        401,
        "a valid API key is needed: send it as 'Authorization: Bearer <key>'",
        kind="authentication_error",
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )


def overloaded(message: str, retry_after_s: float) -> ApiError:
    """The server, not this client, is the reason; the client should try again later."""
    return ApiError(
        503,
        message,
        kind="server_error",
        code="overloaded",
        headers={"retry-after": str(max(1, math.ceil(retry_after_s)))},
    )


def internal(request_id: str) -> ApiError:
    """A bug; the id finds it in the log."""
    return ApiError(
        500, f"the server failed on this request ({request_id})", kind="server_error", code="internal_error"
    )


def as_api_error(error: Exception, request_id: str) -> ApiError:
    """Translate an exception for the client."""
    match error:
        case ApiError():
            return error
        case UnsupportedField():
            return ApiError(400, str(error), code="unsupported_parameter", param=error.field)
        case RequestError():
            return ApiError(400, str(error), code="invalid_value", param=error.field)
        case NotFoundError():
            return ApiError(404, str(error), code=f"{error.kind}_not_found", param=error.kind)
        case CapacityError():
            code = "context_length_exceeded" if "context" in error.unit else "capacity_exceeded"
            return ApiError(400, str(error), code=code)
        case BusyError():
            return overloaded(str(error), error.retry_after_s)
        case BooksError():
            return ApiError(
                503,
                f"the reply could not be recorded in the books ({request_id}), so it is withheld; try again",
                kind="server_error",
                code="books_unavailable",
                headers={"retry-after": "2"},
            )
        case TuitionError():
            return ApiError(400, str(error))
        case _:
            return internal(request_id)


def dump_json(value: Any) -> str:
    """Compact JSON. Raises: ValueError for a NaN, which is a bug."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON reply."""
    return Response(dump_json(value), status, headers, media_type="application/json")


def error_response(error: ApiError) -> Response:
    """An error as a reply."""
    return json_response(error.payload, error.status, error.headers)
