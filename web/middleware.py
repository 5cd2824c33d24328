"""What surrounds every request: its id, the allowed hosts, the shape of an error.

Pure ASGI: `BaseHTTPMiddleware` would hide disconnects and copy every stream.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Mapping, Set
from functools import partial
from urllib.parse import unquote

import uuid_utils
from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from protocols.registry import error_body
from telemetry import metrics

REQUEST_ID = "X-Request-ID"
RETRY_AFTER_SECONDS = 5
BODY_SECONDS = 60.0
"""How long a client may send nothing of its body."""

SMALL_BODY_BYTES = 2**16
ABSOLUTE_FORM = re.compile(rb"https?://([^/]*)(.*)", re.IGNORECASE | re.DOTALL)
LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
"""What no public name ends with (RFC 6761, RFC 6762, ICANN's resolution 2024.07.29.06)."""

HOST = re.compile(r"(?:\[([0-9a-f:.]+)(?:%[^\]\s]*)?]|([^:@/\[\]\s]+))(?::\d*)?", re.IGNORECASE)


def error_response(
    scope: Scope, status: int, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return the response to a request that fails, in the shape of the interface it asked.

    Every 503 says when to retry.
    """
    metrics.REFUSED.labels(status).inc()
    retry = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else {}
    body = error_body(get_route_path(scope), status, message)
    return JSONResponse(body, status, {**retry, **(headers or {})})


class RequestIDMiddleware:
    """Gives every request an id, in `scope["state"]`, and its response the same, `X-Request-ID`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_id = str(uuid_utils.uuid7())
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        await self.app(scope, receive, send_with_id)


class StopMiddleware:
    """Ends quietly what uvicorn cancels when the grace period of a stop is over: with a 503 if
    nothing has been sent yet."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = False

        async def send_noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except asyncio.CancelledError:
            if not started:
                response = error_response(scope, 503, "MiniVault is stopping; retry later")
                await response(scope, receive, send)


class MessageMiddleware:
    """Does what RFC 9112 asks of a server and uvicorn leaves to the app.

    - A target in absolute form names the host, and the path is the one behind it (§3.2.2).
    - Where both `Transfer-Encoding` and `Content-Length` were sent, the connection closes after the
      answer (§6.3): a proxy in between may see another end of the body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            target = scope["raw_path"][len(scope["root_path"]) :]
            if not target.startswith(b"/") and (match := ABSOLUTE_FORM.match(target)):
                scope = with_origin_form(scope, *match.groups())
            names = {name for name, _ in scope["headers"]}
            if names >= {b"transfer-encoding", b"content-length"}:
                send = partial(send_and_close, send)
        await self.app(scope, receive, send)


def with_origin_form(scope: Scope, host: bytes, raw_path: bytes) -> Scope:
    """Return the scope of a request whose target was in absolute form."""
    root_path = scope["root_path"]
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    path = raw_path or b"/"
    return {
        **scope,
        "headers": [(b"host", host), *headers],
        "raw_path": root_path.encode() + path,
        "path": root_path + unquote(path.decode("latin-1")),
    }


async def send_and_close(send: Send, message: Message) -> None:
    """Send a message of a response, after which the connection closes."""
    if message["type"] == "http.response.start":
        MutableHeaders(scope=message)["Connection"] = "close"
    await send(message)


class HostMiddleware:
    """Refuses a `Host` with a name that can be somebody else's, which is what DNS rebinding needs.

    A page whose own name leads to 127.0.0.1 cannot make a browser send an IP literal, so any
    literal is allowed (CVE-2024-28224). Names that only this machine or this network resolves are
    those of Ollama (`allowedHost` in its `server/routes.go`).
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Set[str]) -> None:
        self.app = app
        self.allowed_hosts = allowed_hosts | {"localhost", socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = Headers(scope=scope).get("host", "") if scope["type"] == "http" else "localhost"
        # HTTP/1.0 needs none, as some health checks send none; to rebind a name takes a name
        if self.allows(host) or (not host and scope["http_version"] == "1.0"):
            return await self.app(scope, receive, send)
        message = (
            f"the Host header {host!r} is not allowed; to use this name, add it to "
            "MINIVAULT_ALLOWED_HOSTS"
        )
        await error_response(scope, 400, message)(scope, receive, send)

    def allows(self, host: str) -> bool:
        """Return whether a `Host` header's value is an IP literal or an allowed name."""
        match = HOST.fullmatch(host)
        if not match:
            return False
        literal, name = match.groups()
        name = (name or "").lower().removesuffix(".")
        if name in self.allowed_hosts or name.endswith(LOCAL_SUFFIXES):
            return True
        try:
            ipaddress.ip_address(literal or name)
        except ValueError:
            return False
        return True


class BodyLimitMiddleware:
    """Limits the bytes of all bodies that the process holds, from their arrival to the end of their
    requests, and the time in which nothing of a body arrives; and gives the 413 of Starlette's
    limit for one body the shape of every other error.

    A small body always has room. A 413 of Ollama's own stays as it is.
    """

    def __init__(self, app: ASGIApp, max_buffered_bytes: int, limits: Mapping[str, int]) -> None:
        """`limits` are those of one body, by the names of their settings."""
        self.app = app
        self.max_buffered_bytes = max_buffered_bytes
        self.settings = {limit: name for name, limit in limits.items()}
        self.buffered_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        replaced = False
        is_complete = False
        held = 0

        def hold_bytes(size: int) -> bool:
            nonlocal held
            if self.buffered_bytes + size > self.max_buffered_bytes:
                return False
            self.buffered_bytes += size
            held += size
            return True

        async def receive_counted() -> Message:
            nonlocal held, is_complete
            if is_complete:
                return await receive()
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408,
                    f"nothing of the request's body arrived for {BODY_SECONDS:g} s; send it again",
                    {"Connection": "close"},
                ) from None
            is_complete = not message.get("more_body", False)
            size = len(message.get("body", b""))
            if held + size <= SMALL_BODY_BYTES:
                self.buffered_bytes += size
                held += size
            elif not hold_bytes(size):
                raise HTTPException(
                    503,
                    "the bodies of all requests have more bytes than MINIVAULT_MAX_BUFFERED_BYTES "
                    "allows; retry later",
                )
            return message

        async def send_in_shape(message: Message) -> None:
            nonlocal replaced
            if message.get("status") == 413 and not scope["state"].get("is_forwarded"):
                replaced = True
                limit = scope.get(MAX_BODY_SIZE_SCOPE_KEY, 0)
                detail = (
                    f"the request body is larger than {limit} bytes; shorten it, or raise "
                    f"{self.settings.get(limit)}"
                )
                await error_response(scope, 413, detail)(scope, receive, send)
            elif not replaced:
                await send(message)

        scope.setdefault("state", {})["hold_bytes"] = hold_bytes
        try:
            await self.app(scope, receive_counted, send_in_shape)
        finally:
            self.buffered_bytes -= held
