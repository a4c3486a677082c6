"""Access control: deny by default, decided on `scope["path"]` before anything else reads the request.

With an API key, every path but `/health` and `/ready` needs it (pages may carry a session cookie instead).
Without one, the server listens on loopback only, and requests with a foreign host name or from a foreign web
page are refused: a page on the internet could otherwise reach a server on this machine (DNS rebinding).
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from urllib.parse import urlsplit

from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tuition.serve.errors import ApiError, error_response, unauthorized
from tuition.serve.settings import ServeSettings, is_loopback

PUBLIC_PATHS = frozenset({"/health", "/ready"})
SIGN_IN_PATH = "/sign-in"
SESSION_COOKIE = "tuition_session"
SESSION_SECONDS = 12 * 3_600


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that (lower case) name."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


@dataclass
class Access:
    """The key, the sessions made with it, and the paths that belong to pages."""

    settings: ServeSettings
    api_key: str | None = field(repr=False)
    _pepper: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    page_paths: set[str] = field(default_factory=set)
    """What pages answer themselves, beside what they fetch."""
    _page_prefixes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._wanted = None if self.api_key is None else self._digest(self.api_key)

    def admit_pages(self, paths: Iterable[str], prefixes: Iterable[str]) -> None:
        """Let a session cookie open these paths as well; called where pages are mounted."""
        self.page_paths |= set(paths)
        self._page_prefixes += tuple(prefixes)

    def is_key(self, presented: str) -> bool:
        """Compare in constant time: digests under a secret of this process, never the texts."""
        return self._wanted is not None and hmac.compare_digest(self._digest(presented), self._wanted)

    def new_session(self) -> str:
        """A token for a browser that has shown the key; it ends with this process or after its time."""
        until = str(int(time.time()) + SESSION_SECONDS)
        return f"{until}.{self._digest('session:' + until).hex()}"

    def is_session(self, token: str) -> bool:
        """True for an unexpired token of this process."""
        until, _, proof = token.partition(".")
        wanted = self._digest("session:" + until).hex()
        genuine = hmac.compare_digest(proof.encode("utf-8", "replace"), wanted.encode())
        return genuine and until.isdigit() and int(until) > time.time()

    def is_page(self, path: str) -> bool:
        """The path belongs to the pages."""
        return path in self.page_paths or path.startswith(self._page_prefixes or ("\0",))

    def check(self, scope: Scope) -> None:
        """Raises: ApiError if this request may not pass."""
        path: str = scope["path"]
        if path in PUBLIC_PATHS:
            return
        if self.api_key is None:
            self._check_host(scope)
        if (self.api_key is None or self.is_page(path)) and scope["type"] in ("http", "websocket"):
            self._check_origin(scope)
        if self.api_key is None or (path == SIGN_IN_PATH and self.page_paths):
            return
        kind, _, presented = (header(scope, b"authorization") or "").partition(" ")
        if kind.lower() == "bearer" and self.is_key(presented.strip()):
            return
        if self.is_page(path) and self.is_session(_cookie(scope, SESSION_COOKIE)):
            return
        raise unauthorized()

    def _check_host(self, scope: Scope) -> None:
        host = header(scope, b"host")
        if host is None:  # HTTP/1.0 programs; browsers, which are what this is about, always send it
            return
        name = _hostname(host)
        if not is_loopback(name) and name not in (self.settings.host, *self.settings.allowed_hosts):
            raise ApiError(
                403,
                "this server answers only to loopback names while it has no API key; "
                "set TUITION_API_KEY, or allow the host name in its settings",
                code="host_not_allowed",
            )

    def _check_origin(self, scope: Scope) -> None:
        origin = header(scope, b"origin")
        if origin is None or {origin, "*"} & set(self.settings.cors_origins):
            return
        try:
            place = urlsplit(origin).netloc.lower()
        except ValueError:  # "http://[", which no browser sends
            place = None
        if place != (header(scope, b"host") or "").lower():
            raise ApiError(
                403,
                "pages of other origins may not call this server; allow theirs in cors_origins",
                code="origin_not_allowed",
            )

    def _digest(self, text: str) -> bytes:
        return hmac.new(self._pepper, text.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()


def _hostname(host: str) -> str:
    """`[::1]:8000` -> `::1`, `localhost:8000` -> `localhost`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _cookie(scope: Scope, name: str) -> str:
    for part in (header(scope, b"cookie") or "").split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value
    return ""


class AccessMiddleware:
    """Runs `Access.check` on every HTTP request and WebSocket."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        try:
            self.access.check(scope)
        except ApiError as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": error.code or ""})
            else:
                await self._refusal(scope, error)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope, error: ApiError) -> Response:
        wants_page = scope["method"] in ("GET", "HEAD") and "text/html" in (header(scope, b"accept") or "")
        if error.status == 401 and wants_page and self.access.is_page(scope["path"]):
            return sign_in_page()
        return error_response(error)


def sign_in_page(problem: str = "") -> Response:
    """A small form without any script that asks for the key."""
    note = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    headers = {"cache-control": "no-store", "content-security-policy": policy}
    return HTMLResponse(_SIGN_IN.replace("<!--note-->", note), 401, headers)


_SIGN_IN = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tuition: sign in</title>
<style>
:root { color-scheme: light dark; --paper: #faf9f6; --ink: #22211f; --soft: #6f6b63; --line: #dedad1;
  --accent: #2f6f5e }
@media (prefers-color-scheme: dark) {
  :root { --paper: #171817; --ink: #e9e7e1; --soft: #a09c93; --line: #383a37; --accent: #7fc4ae }
}
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
form { width: min(22rem, 86vw) }
h1 { font-size: 1.35rem; font-weight: 600; margin: 0 0 .25rem }
p { color: var(--soft); margin: 0 0 1.25rem }
[role=alert] { color: #c2452d; margin: 0 0 .75rem }
label { display: block; font-size: .85rem; color: var(--soft); margin-bottom: .35rem }
input, button { width: 100%; box-sizing: border-box; font: inherit; padding: .65rem .8rem;
  border-radius: .7rem }
input { border: 1px solid var(--line); background: transparent; color: inherit; margin-bottom: .8rem }
button { border: 0; background: var(--accent); color: var(--paper); font-weight: 600; cursor: pointer }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
</style>
</head>
<body>
<form method="post" action="/sign-in">
<h1>tuition</h1>
<p>This server is protected by an API key.</p><!--note-->
<label for="key">API key</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
<button>Open the chat</button>
</form>
</body>
</html>
"""
