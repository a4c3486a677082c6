"""Mount the pages on the server's application, under `/`.

Scripts, styles and fonts are files of the package. A content security policy keeps the browser from calling
any other server, whatever a model writes.
"""

import warnings

from fastapi import FastAPI, Request
from nicegui import core, ui
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuition.client.api import Api
from tuition.core.errors import SettingsError
from tuition.serve.context import ServeContext
from tuition.studio.page import ChatPage

RECONNECT_S = 30.0
"""How long a page is kept whose connection was lost; one that was closed is deleted at once."""
RESPONSE_S = 30.0
"""For the first answer of a page on a busy server."""
PAGE_PATHS = ("/", "/favicon.ico")
PAGE_PREFIXES = ("/_nicegui/", "/_nicegui_ws/")
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Vue compiles its templates there
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
    '<rect width="32" height="32" rx="9" fill="#2c6e5c"/>'
    '<path d="M10 10h12M16 10v13" stroke="#fff" stroke-width="3.2" stroke-linecap="round"/></svg>'
)


def mount_studio(app: FastAPI, context: ServeContext) -> None:
    """Add the chat page to `app`, made by `create_app(context)`. Once in a process.

    The page calls the server's public API at the address by which the browser reached it, with the server's
    key if there is one; a browser shows that key once, on the sign-in page, and gets a session cookie for
    the pages only. `/?model=name` opens with that model.

    Raises: SettingsError if pages were mounted before: NiceGUI keeps one application in a process.
    """
    if core.app.config.has_run_config:
        raise SettingsError("pages", got="a second mount", wanted="one server with pages in a process")

    apis: dict[str, Api] = {}  # all pages share the connections to the server

    @ui.page("/", title="tuition", response_timeout=RESPONSE_S)
    async def chat_page(request: Request, model: str | None = None) -> None:
        url = _own_url(request)
        if url not in apis:
            apis[url] = Api(url, context.api_key)
            core.app.on_shutdown(apis[url].close)
        await ChatPage(apis[url], model).build()

    # NiceGUI searches all objects of the process for its server; torch answers that with a warning.
    warnings.filterwarnings("ignore", message=r"`torch\.distributed", category=FutureWarning)
    app.state.access.admit_pages(PAGE_PATHS, PAGE_PREFIXES)
    app.add_middleware(PagePolicyMiddleware)
    ui.run_with(
        app,
        title="tuition",
        favicon=ICON,
        dark=None,
        binding_refresh_interval=None,
        reconnect_timeout=RECONNECT_S,
        tailwind=False,
        show_welcome_message=False,
    )


def _own_url(request: Request) -> str:
    """The address of this server that the connection came in on."""
    host, port = request.scope["server"]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class PagePolicyMiddleware:
    """Adds the policy to every HTML reply without one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                names = {name.lower() for name, _ in headers}
                is_html = any(n.lower() == b"content-type" and v.startswith(b"text/html") for n, v in headers)
                if is_html and b"content-security-policy" not in names:
                    headers.append((b"content-security-policy", POLICY.encode()))
                    headers.append((b"referrer-policy", b"no-referrer"))
                message["headers"] = headers
            await send(message)

        await self.app(scope, receive, send_with_policy)
