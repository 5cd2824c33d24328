"""Cross-origin requests, by the rules of Ollama: its list of origins and `OLLAMA_ORIGINS`.

From `envconfig.AllowedOrigins`, `server/routes.go` and gin-contrib/cors. What is forwarded has
Ollama's own headers. What MiniVault says itself gets the same ones here: without them a browser
says "CORS" whatever the error is. The log and the page are for no other origin.
"""

import re
from collections.abc import Sequence
from functools import partial

from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = ("localhost", "127.0.0.1", "0.0.0.0")
DEFAULT_ORIGINS = [
    *(
        f"{scheme}://{host}{port}"
        for host in LOCAL
        for port in ("", ":*")
        for scheme in ("http", "https")
    ),
    "app://*",
    "file://*",
    "tauri://*",
    "vscode-webview://*",
    "vscode-file://*",
]
PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Headers": (
        "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,"
        "X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,"
        "X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,"
        "X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,"
        "X-Stainless-Runtime-Version,X-Stainless-Timeout"
    ),
    "Access-Control-Allow-Methods": "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
    "Access-Control-Max-Age": "43200",
    "Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
}
COVERED_PATHS = re.compile(r"/(/.*|api/.*|v1/.*|generate|stream)?")
OWN_PATHS = ("/generate", "/stream", "/")
"""Preflights of these are not forwarded."""


class CORSMiddleware:
    """Answers preflights that nobody else answers, refuses requests of foreign origins before their
    bodies are read, and adds the headers to what MiniVault says itself.

    Starlette's own middleware knows no responses that have their headers already.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        """`origins` are allowed beside Ollama's own list."""
        self.app = app
        allowed = [*DEFAULT_ORIGINS, *origins]
        self.allows_all = "*" in allowed
        patterns = (re.escape(each).replace(r"\*", ".*") for each in allowed)
        self.allowed = re.compile("|".join(patterns))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = find_other_origin(scope)
        if origin is None:
            return await self.app(scope, receive, send)
        is_preflight, is_own = scope["method"] == "OPTIONS", get_route_path(scope) in OWN_PATHS
        if not self.allows(origin):
            is_refused = scope["method"] == "POST" or is_preflight and is_own
            response = Response(status_code=403) if is_refused else self.app
            await response(scope, receive, send)
        elif is_preflight and is_own:
            await self.answer_preflight(origin)(scope, receive, send)
        elif is_preflight:
            await self.forward_preflight(origin, scope, receive, send)
        else:
            await self.app(scope, receive, partial(self.send_own, origin, scope, send))

    def allows(self, origin: str) -> bool:
        """Return whether the origin is on the list."""
        return self.allows_all or self.allowed.fullmatch(origin) is not None

    def answer_preflight(self, origin: str) -> Response:
        """Return what Ollama answers to a preflight of an allowed origin."""
        allowed = "*" if self.allows_all else origin
        headers = {"Access-Control-Allow-Origin": allowed, **PREFLIGHT_HEADERS}
        return Response(status_code=204, headers=headers)

    async def forward_preflight(
        self, origin: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send Ollama's answer to a preflight, or where it is away the one that it would give."""
        is_replaced = False

        async def send_or_replace(message: Message) -> None:
            nonlocal is_replaced
            if message.get("status", 0) >= 500:
                is_replaced = True
                await self.answer_preflight(origin)(scope, receive, send)
            elif not is_replaced:
                await send(message)

        await self.app(scope, receive, send_or_replace)

    async def send_own(self, origin: str, scope: Scope, send: Send, message: Message) -> None:
        """Send a message, with the header if it begins a response of MiniVault's own."""
        if message["type"] == "http.response.start" and not scope["state"].get("is_forwarded"):
            headers = MutableHeaders(scope=message)
            if not headers.get("content-type", "").startswith("text/html"):  # the page
                headers["Access-Control-Allow-Origin"] = "*" if self.allows_all else origin
                headers.add_vary_header("Origin")
        await send(message)


def find_other_origin(scope: Scope) -> str | None:
    """Return the origin of a request that comes from another one's page, if it is to be checked."""
    if scope["type"] != "http" or not COVERED_PATHS.fullmatch(get_route_path(scope)):
        return None
    headers = Headers(scope=scope)
    origin, host = headers.get("origin"), headers.get("host", "")
    return None if origin in (f"http://{host}", f"https://{host}") else origin
