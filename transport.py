"""A transport for httpx that carries streams over aiohttp.

httpx's own transport parses HTTP in Python, yields every HTTP chunk by itself, and its pool is
quadratic in open connections. aiohttp parses in C, hands over all that one read of the socket
brought, and lets no connection idle for longer than 15 s.

What is added here: a request whose reused connection died before its answer began is sent once
more, on a fresh one; a kept connection on which something came that nobody asked for is not used
again; and a peer that acknowledges nothing at all is given up.
"""

import asyncio
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

IDLE_SECONDS = 15
"""How long a connection is kept for a later request."""

UNACKNOWLEDGED_SECONDS = 15
"""How long the peer's system may acknowledge nothing of what was sent before it counts as gone."""

PIECE_BYTES = 2**18

CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""What no header's value may hold (RFC 9110 §5.5)."""

STATUSES = range(200, 600)
"""What the status of a final answer can be (RFC 9110 §15)."""

FAILURES: dict[type[Exception], type[httpx.TransportError]] = {
    aiohttp.ConnectionTimeoutError: httpx.ConnectTimeout,
    aiohttp.ClientConnectorError: httpx.ConnectError,
    aiohttp.InvalidURL: httpx.ConnectError,
    aiohttp.ClientResponseError: httpx.RemoteProtocolError,
    aiohttp.ClientError: httpx.ReadError,
    UnicodeError: httpx.ConnectError,  # a host name that is none, as Python's IDNA codec says it
}
FAILED = tuple(FAILURES)


def httpx_error(exc: Exception) -> httpx.TransportError:
    """Return httpx's error for one of aiohttp's."""
    failure = next(FAILURES[kind] for kind in FAILURES if isinstance(exc, kind))
    words = getattr(exc, "message", None) or getattr(exc, "strerror", None) or exc
    return failure(" ".join(str(words).split()) or type(exc).__name__)


def create_socket(address: Any) -> socket.socket:
    """Return a socket whose peer is given up once it acknowledges nothing any more.

    A host that lost power, or a NAT that forgot the connection, says nothing at all.
    """
    family, kind, protocol, *_ = address
    sock = socket.socket(family, kind, protocol)
    if sys.platform == "linux":
        milliseconds = UNACKNOWLEDGED_SECONDS * 1000
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return sock


class Handler(ResponseHandler):
    """Resumes only where there was a pause.

    aiohttp 3.14 runs its parser over nothing after every read, which costs a token a twentieth and
    is of use only once the parser has paused: some of its pauses outlast the reading's.
    """

    has_paused = False

    def pause_reading(self) -> None:
        self.has_paused = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        if self.has_paused:
            super().resume_reading(resume_parser)


class Connector(aiohttp.TCPConnector):
    """Gives no request a connection that has brought an answer already.

    aiohttp takes what comes on an idle connection, as a proxy's 408 before it closes it, for the
    answer to the next request.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = partial(Handler, loop=self._loop)  # type: ignore[assignment]

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        if connection.protocol and connection.protocol.should_close:
            connection.close()
            raise aiohttp.ServerDisconnectedError("it answered before it was asked")
        return connection


def create_session(*, reuse: bool) -> aiohttp.ClientSession:
    """Return a session without limits, cookies or proxies, whose connections are reused or not."""
    connector = Connector(
        limit=0,
        socket_factory=create_socket,
        **({"keepalive_timeout": IDLE_SECONDS} if reuse else {"force_close": True}),
    )
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(note_reuse)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        trace_configs=[trace],
    )


async def note_reuse(session: object, context: SimpleNamespace, params: object) -> None:
    """Note that a request goes out on a connection that has carried another."""
    context.trace_request_ctx.reused = True


def header_text(value: bytes) -> str:
    """Return a header's value for aiohttp, which sends UTF-8 and refuses control characters."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return CONTROL.sub(" ", text)


def check_head(response: aiohttp.ClientResponse) -> None:
    """Raise `RemoteProtocolError` where aiohttp let through what no HTTP answer can begin with."""
    if response.status not in STATUSES:
        raise httpx.RemoteProtocolError(f"a status of {response.status}")
    for name, value in response.headers.items():
        if "\v" in value or "\f" in value:
            raise httpx.RemoteProtocolError(f"a control character in {name}")


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body in pieces: one large write would hold up the event loop while it is copied."""
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]


class ResponseStream(httpx.AsyncByteStream):
    """A response's body, in pieces as large as the reads that brought them."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read(nullcontext()):
            yield data

    async def read(self, limit: AbstractContextManager[None]) -> bytes:
        """Return what is there, or wait for it under the limit; nothing at the end.

        Raises:
            httpx.TransportError: the connection was lost, or what came is not HTTP.
        """
        try:
            with limit:
                return await self._response.content.readany()
        except FAILED as exc:
            raise httpx_error(exc) from exc

    async def aclose(self) -> None:
        """Close the connection, unless the body has ended and it went back to the pool."""
        self._response.close()


def end_body(body: aiohttp.StreamReader | None, closed: asyncio.Future[None]) -> None:
    """Let a body that has not ended fail, now that its connection is closed."""
    if not closed.cancelled():
        closed.exception()  # else asyncio complains that nobody looked
    if body and not body.is_eof() and body.exception() is None:
        body.set_exception(aiohttp.ClientPayloadError("what came is not HTTP"))


class StreamTransport(httpx.AsyncBaseTransport):
    """Sends httpx's requests; of the timeouts it keeps `connect`. It belongs to a running loop."""

    def __init__(self) -> None:
        self._kept = create_session(reuse=True)
        self._fresh = create_session(reuse=False)
        self._bodies: dict[asyncio.Protocol, aiohttp.StreamReader] = {}
        """The last one of each connection."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response as soon as the head is there.

        Raises:
            httpx.ConnectError, httpx.ConnectTimeout: nothing was reached.
            httpx.TransportError: the connection was lost, or what came is not HTTP.
        """
        attempt = SimpleNamespace(reused=False)
        try:
            try:
                response = await self._send(self._kept, request, attempt)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if not attempt.reused:
                    raise
                response = await self._send(self._fresh, request, SimpleNamespace())
        except FAILED as exc:
            raise httpx_error(exc) from exc
        try:
            check_head(response)
        except httpx.RemoteProtocolError:
            response.close()
            raise
        self._end_with_connection(response)
        return httpx.Response(
            response.status, headers=response.raw_headers, stream=ResponseStream(response)
        )

    async def _send(
        self, session: aiohttp.ClientSession, request: httpx.Request, attempt: SimpleNamespace
    ) -> aiohttp.ClientResponse:
        body = await request.aread()
        return await session.request(
            request.method,
            URL(str(request.url), encoded=True),
            headers=[(name.decode(), header_text(value)) for name, value in request.headers.raw],
            data=pieces(body) if len(body) > PIECE_BYTES else body or None,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(connect=request.extensions["timeout"]["connect"]),
            trace_request_ctx=attempt,
        )

    def _end_with_connection(self, response: aiohttp.ClientResponse) -> None:
        """Let a body end when its connection does.

        aiohttp 3.14 closes the connection at what is no HTTP in the middle of a body, and leaves
        whoever reads the body waiting.
        """
        protocol = response.connection and response.connection.protocol
        if protocol is None:  # it has ended by now
            return
        is_new = protocol not in self._bodies
        self._bodies[protocol] = response.content
        if is_new and (closed := protocol.closed):
            closed.add_done_callback(lambda _: end_body(self._bodies.pop(protocol, None), closed))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._kept.close()
        await self._fresh.close()
