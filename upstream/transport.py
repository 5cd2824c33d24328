"""HTTP to Ollama over aiohttp, which parses in C and hands over all that one read brought.

What aiohttp 3.14 does not do, and is added here:

1. A request whose reused connection turns out to be stale at once, before anybody can have begun
   with it, is sent once more on a fresh connection (RFC 9110 §9.2.2). aiohttp does so for
   idempotent methods, which POST is not (https://github.com/aio-libs/aiohttp/pull/7363).
2. A kept connection that received something while it was idle is not used: aiohttp would take it
   for the answer to the next request (https://github.com/aio-libs/aiohttp/issues/13656). The kernel
   is asked, as the event loop may not have looked yet.
3. A body ends with its connection. At bytes that are not HTTP, aiohttp closes the connection and
   leaves the reader of the body waiting (no issue known).
4. A peer whose system says nothing any more is given up. aiohttp leaves that to `socket_factory`.
"""

import re
import select
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

KEEPALIVE_SECONDS = 15
"""How long an idle connection is kept for a later request."""

DEAD_SECONDS = 60
"""How long the peer's system may say nothing, to what was sent or to probes, before it counts as
dead. Ollama itself may be silent for as long as it likes."""

PROBES = 4
"""How many probes go unanswered in that time."""

STALE_SECONDS = 0.25
"""How soon a reused connection fails that was closed while it was idle."""

WRITE_BYTES = 2**18

CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""What no header's value may contain (RFC 9110 §5.5)."""

STATUSES = range(200, 600)
"""The statuses of a final answer (RFC 9110 §15)."""

CLOSED = aiohttp.ClientConnectionResetError
"""aiohttp's error where nothing can be written any more; without a body it is raised as it is."""

UNREACHABLE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""Those of aiohttp's errors that mean that nothing was reached."""


def describe_error(exc: aiohttp.ClientError) -> str:
    """Return the message of one of aiohttp's errors, in one line."""
    message = getattr(exc, "message", None) or getattr(exc, "strerror", None) or str(exc)
    # for half a head the message is no text
    if message and isinstance(message, str):
        return " ".join(message.split())
    return type(exc).__name__


def clear_tracebacks(exc: BaseException | None) -> None:
    """Remove the tracebacks of an error and its causes: aiohttp's frames refer to the error and to
    the request's body, which would stay in memory until the garbage collector runs."""
    while exc:
        exc.__traceback__ = None
        exc = exc.__cause__ or exc.__context__


def create_socket(address: Any) -> socket.socket:
    """Return a socket that fails when the peer's system says nothing any more, as a host does that
    lost power or a NAT that forgot the connection."""
    family, kind, protocol, *_ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        interval = max(1, DEAD_SECONDS // (PROBES + 1))
        for option, value in (
            (socket.TCP_KEEPIDLE, interval),
            (socket.TCP_KEEPINTVL, interval),
            (socket.TCP_KEEPCNT, PROBES),
            (socket.TCP_USER_TIMEOUT, DEAD_SECONDS * 1000),
        ):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


is_reused: ContextVar[bool] = ContextVar("is_reused", default=False)
"""Whether the task's last request got a connection that had served another; `Connector` sets it."""


class Handler(ResponseHandler):
    """One connection: the body ends when it does."""

    was_used = False

    def connection_lost(self, exc: BaseException | None) -> None:
        body = self._payload
        super().connection_lost(exc)
        if body and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("what arrived is not HTTP"))


def is_idle(handler: Handler) -> bool:
    """Return whether nothing has come on a connection since its last answer, its end included."""
    transport = handler.transport
    if handler.should_close or transport is None:
        return False
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return not poll.poll(0)


class Connector(aiohttp.TCPConnector):
    """Opens and keeps connections; none that received something while it was idle is used."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        assert hasattr(self, "_factory"), "aiohttp makes its connections in another way now"
        self._factory = partial(Handler, loop=self._loop)  # type: ignore[assignment]

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        is_reused.set(False)
        while True:
            connection = await super().connect(req, traces, timeout)
            handler = connection.protocol
            assert isinstance(handler, Handler)
            if not handler.was_used or is_idle(handler):
                break
            connection.close()
        is_reused.set(handler.was_used)
        handler.was_used = True
        if handler.should_close:
            connection.close()
            raise aiohttp.ServerDisconnectedError("it answered before it was asked")
        return connection


def create_session(connect_timeout: float, *, reuse: bool) -> aiohttp.ClientSession:
    """Return a session without limits, cookies or proxies, whose connections are reused or not."""
    connector = Connector(
        limit=0,
        socket_factory=create_socket,
        **({"keepalive_timeout": KEEPALIVE_SECONDS} if reuse else {"force_close": True}),
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(connect=connect_timeout),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
    )


def decode_header(value: bytes) -> str:
    """Return a header's value for aiohttp, which sends UTF-8 and refuses control characters."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return CONTROL.sub(" ", text)


def check_head(response: aiohttp.ClientResponse) -> None:
    """Raise `ClientError` where aiohttp accepted what no HTTP answer can begin with."""
    if response.status not in STATUSES:
        raise aiohttp.ClientError(f"a status of {response.status}")
    for name, value in response.headers.items():
        if "\v" in value or "\f" in value:
            raise aiohttp.ClientError(f"a control character in {name}")


def is_unsent(exc: aiohttp.ClientError, body: bytes) -> bool:
    """Return whether nothing of a request has left, as its connection was closed by then. On a busy
    machine that shows late."""
    was_closed = any(isinstance(each, CLOSED) for each in (exc, exc.__cause__))
    return was_closed and len(body) <= WRITE_BYTES  # else a piece of it may have


async def split_body(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body in pieces: one large write would block the event loop while it is copied."""
    for start in range(0, len(body), WRITE_BYTES):
        yield body[start : start + WRITE_BYTES]


class Transport:
    """Sends requests and returns the heads of their answers. It belongs to a running loop."""

    def __init__(self, connect_timeout: float) -> None:
        """Wait at most `connect_timeout` seconds for a connection; nothing else has a limit."""
        self._kept = create_session(connect_timeout, reuse=True)
        self._fresh = create_session(connect_timeout, reuse=False)

    async def send(
        self,
        method: str,
        url: URL,
        headers: list[tuple[bytes, bytes]],
        body: bytes = b"",
    ) -> aiohttp.ClientResponse:
        """Send a request and return its response as soon as the head has arrived.

        The caller closes the response. That closes the connection too, unless the body has been
        read to its end.

        Raises:
            aiohttp.ClientError: the connection was lost, or what arrived is not HTTP; one of
                `UNREACHABLE`: nothing was reached.
        """
        begun = time.monotonic()
        try:
            response = await self._send(self._kept, method, url, headers, body)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, CLOSED) as exc:
            has_begun = not isinstance(getattr(exc, "message", ""), str)  # it is half a head
            is_late = time.monotonic() - begun > STALE_SECONDS and not is_unsent(exc, body)
            if has_begun or is_late or not is_reused.get():
                raise
            response = await self._send(self._fresh, method, url, headers, body)
        try:
            check_head(response)
        except aiohttp.ClientError:
            response.close()
            raise
        return response

    async def _send(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: URL,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
    ) -> aiohttp.ClientResponse:
        fields = [(name.decode(), decode_header(value)) for name, value in headers]
        data: AsyncIterator[bytes] | bytes | None = body or None
        if len(body) > WRITE_BYTES:
            data = split_body(body)
            fields.append(("Content-Length", str(len(body))))
        return await session.request(method, url, headers=fields, data=data, allow_redirects=False)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._kept.close()
        await self._fresh.close()
