"""The client of a request: who it is, how it gets its answer, and how it is noticed that it left.

A client leaves by closing its connection, or by reading nothing of its answer for so long that it
counts as gone. Either way its request is cancelled, and `departure` says so.
"""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

Result = TypeVar("Result")

MAX_ID_LENGTH = 200


async def send_as_message(send: Send, piece: bytes) -> None:
    """Send a piece of a body by an ASGI message."""
    await send({"type": "http.response.body", "body": piece, "more_body": True})


def decode_text(value: str | None) -> str | None:
    """Return a header's value, which Starlette decodes as latin-1, as UTF-8 if it is that."""
    with suppress(UnicodeDecodeError):
        return value.encode("latin-1").decode() if value is not None else None
    return value


class Client:
    """The client of one request. `departure` says that it left, None while it is connected.

    `send_piece` sends a piece of a body past all middleware, none of which looks at bodies; head
    and end are sent in the usual way.
    """

    def __init__(self, scope: Scope, send_piece: Callable[[bytes], Awaitable[None]]) -> None:
        self.send_piece = send_piece
        self.address: str | None = scope["client"][0] if scope.get("client") else None
        headers = Headers(scope=scope)
        self.user_agent = decode_text(headers.get("user-agent"))
        self.request_id = (decode_text(headers.get("x-request-id")) or "")[:MAX_ID_LENGTH] or None
        """The client's own id of the request, as far as the log keeps it."""
        self.departure: str | None = None

    async def run_while_connected(
        self, receive: Receive, work: Coroutine[Any, Any, Result]
    ) -> Result | None:
        """Return the result of the work, None if the client left, which cancels the work.

        The work is a task that is cancelled directly: anyio's cancel scope waits until the task
        has nothing to do, which on uvloop never happens with a fast model. In its own task a token
        also resumes two frames, not the forty of the middleware.
        """
        task = asyncio.create_task(work)
        watcher = asyncio.create_task(self._watch(receive, task))
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            assert current is not None
            if self.departure is None or current.cancelling():  # the service stops
                raise
            return None
        finally:
            watcher.cancel()

    async def _watch(self, receive: Receive, task: asyncio.Task[Any]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.departure = "the client left"
        task.cancel()


class ClientMiddleware:
    """Puts a request's `Client` into `scope["state"]`, and makes the kernel drop a client that
    reads nothing of its answer.

    Only the kernel can do that: `send` does not see what is still buffered for the client, and
    uvicorn's own close waits until the client has read it. The app then sees a client that left.
    It needs the connection itself, which `web.connection` puts into `scope["state"]`.
    """

    def __init__(self, app: ASGIApp, timeout: float) -> None:
        """Wait `timeout` seconds for a client to read something; Linux only."""
        self.app = app
        self.milliseconds = max(round(timeout * 1000), 1)  # 0 would be no limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            state = scope.setdefault("state", {})
            connection = state.get("connection")
            if connection:
                self._limit(connection.transport)
                send_piece = partial(connection.send_piece, connection.cycle)
            else:
                send_piece = partial(send_as_message, send)
            state["client"] = Client(scope, send_piece)
        await self.app(scope, receive, send)

    def _limit(self, transport: asyncio.Transport) -> None:
        sock = transport.get_extra_info("socket")  # None if TLS has ended by now
        if sock and sys.platform == "linux":
            with suppress(OSError):  # a Unix socket has no such option
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self.milliseconds)
