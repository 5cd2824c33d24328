"""What surrounds every request: its id, the hosts that may be asked for, the shape of a refusal.

Pure ASGI: `BaseHTTPMiddleware` would hide disconnects and copy every stream.
"""

import asyncio
import ipaddress
import re
import uuid
from collections.abc import Mapping, Set

from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from protocols.base import refusal

REQUEST_ID = "X-Request-ID"
RETRY_SECONDS = 5
HOST = re.compile(r"(?:\[([0-9a-f:.]+)]|([^:@/\[\]\s]+))(?::\d*)?", re.IGNORECASE)


def refuse(
    scope: Scope, status: int, detail: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return the answer to a request that is refused, in the shape of the interface it asked.

    Every 503 says when to try again.
    """
    more = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else {}
    return JSONResponse(
        refusal(get_route_path(scope), status, detail), status, {**more, **(headers or {})}
    )


class RequestIDMiddleware:
    """Gives every request an id, in `scope["state"]`, and its answer the same in `X-Request-ID`.

    As the outermost part that a request passes it also ends quietly what uvicorn cancels when the
    grace period of a stop is over: with a 503 where nothing has left yet.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_id = str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if not started:
                detail = "the service is stopping; try again when it is back"
                await refuse(scope, 503, detail)(scope, receive, send_with_id)


class HostMiddleware:
    """Refuses a `Host` that is a name not known here: what DNS rebinding needs.

    A page that points its own name at 127.0.0.1 cannot make a browser send an IP literal, so any
    literal passes, as with Ollama (CVE-2024-28224).
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Set[str]) -> None:
        self.app = app
        self.allowed_hosts = allowed_hosts | {"localhost"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = Headers(scope=scope).get("host", "") if scope["type"] == "http" else "localhost"
        if self.allows(host):
            return await self.app(scope, receive, send)
        detail = (
            f"the Host header {host!r} is not allowed; add the name to MINIVAULT_ALLOWED_HOSTS "
            "if this service is to be reached under it"
        )
        await refuse(scope, 400, detail)(scope, receive, send)

    def allows(self, host: str) -> bool:
        """Return whether a `Host` header's value is an IP literal or an allowed name."""
        match = HOST.fullmatch(host)
        if not match:
            return False
        literal, name = match.groups()
        if name and name.lower() in self.allowed_hosts:
            return True
        try:
            ipaddress.ip_address(literal or name)
        except ValueError:
            return False
        return True


class BodyLimitDetailMiddleware:
    """Gives the 413 of Starlette's body limit, plain text, the shape of every other error.

    A 413 of Ollama's own is passed on as it came.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = False

        async def send_with_detail(message: Message) -> None:
            nonlocal replaced
            if message.get("status") == 413 and not scope["state"].get("is_passed_on"):
                replaced = True
                detail = (
                    f"the request body is larger than {self.max_body_bytes} bytes; shorten it, "
                    "or raise MINIVAULT_MAX_BODY_BYTES"
                )
                await refuse(scope, 413, detail)(scope, receive, send)
            elif not replaced:
                await send(message)

        await self.app(scope, receive, send_with_detail)
