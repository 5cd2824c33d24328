"""HTTP to Ollama, over aiohttp: answers as they come.

aiohttp parses in C, hands over all that one read of the socket brought, and uses no connection that
has idled for longer than 15 s.

What is added here: a request whose reused connection died before its answer began is sent once
more, on a fresh one, also where it is a POST; a kept connection on which something came that nobody
asked for is not used again; and a peer that acknowledges nothing at all is given up.
"""

import re
import socket
import sys
from collections.abc import AsyncIterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import aiohttp
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

UNREACHABLE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""Those of aiohttp's errors that mean that nothing was reached."""


def words_of(exc: aiohttp.ClientError) -> str:
    """Return what an error of aiohttp's says, in one line."""
    words = getattr(exc, "message", None) or getattr(exc, "strerror", None) or str(exc)
    # half a head is a message that is no text
    return " ".join(words.split()) if words and isinstance(words, str) else type(exc).__name__


def forget_frames(exc: BaseException | None) -> None:
    """Let an error and those behind it let go of where they passed: aiohttp's frames hold the
    errors in turn, and the body of the request, until garbage is looked for."""
    while exc:
        exc.__traceback__ = None
        exc = exc.__cause__ or exc.__context__


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


is_reused: ContextVar[bool] = ContextVar("is_reused", default=False)
"""Whether the task's last request got a connection that another had before; the connector says."""


class Handler(ResponseHandler):
    """Resumes only where there was a pause, and lets a body end when its connection does.

    aiohttp 3.14 closes the connection at what is no HTTP in the middle of a body, and leaves
    whoever reads the body waiting.

    It runs its parser over nothing after every read, which costs a token a twentieth and is of use
    only once the parser has paused: some of its pauses outlast the reading's.
    """

    has_paused = False
    was_given = False
    """Whether a request has been given this connection."""

    def pause_reading(self) -> None:
        self.has_paused = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        if self.has_paused:
            super().resume_reading(resume_parser)

    def connection_lost(self, exc: BaseException | None) -> None:
        body = self._payload
        super().connection_lost(exc)
        if body and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("what came is not HTTP"))


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
        is_reused.set(False)
        connection = await super().connect(req, traces, timeout)
        handler = connection.protocol
        assert isinstance(handler, Handler)
        is_reused.set(handler.was_given)
        handler.was_given = True
        if handler.should_close:
            connection.close()
            raise aiohttp.ServerDisconnectedError("it answered before it was asked")
        return connection


def create_session(connect_timeout: float, *, reuse: bool) -> aiohttp.ClientSession:
    """Return a session without limits, cookies or proxies, whose connections are reused or not."""
    connector = Connector(
        limit=0,
        socket_factory=create_socket,
        **({"keepalive_timeout": IDLE_SECONDS} if reuse else {"force_close": True}),
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(connect=connect_timeout),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
    )


def header_text(value: bytes) -> str:
    """Return a header's value for aiohttp, which sends UTF-8 and refuses control characters."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return CONTROL.sub(" ", text)


def check_head(response: aiohttp.ClientResponse) -> None:
    """Raise `ClientError` where aiohttp let through what no HTTP answer can begin with."""
    if response.status not in STATUSES:
        raise aiohttp.ClientError(f"a status of {response.status}")
    for name, value in response.headers.items():
        if "\v" in value or "\f" in value:
            raise aiohttp.ClientError(f"a control character in {name}")


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body in pieces: one large write would hold up the event loop while it is copied."""
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]


class Transport:
    """Sends requests and returns their answers' heads. It belongs to a running loop."""

    def __init__(self, connect_timeout: float) -> None:
        """Wait `connect_timeout` seconds for a connection, and for nothing else."""
        self._kept = create_session(connect_timeout, reuse=True)
        self._fresh = create_session(connect_timeout, reuse=False)

    async def send(
        self,
        method: str,
        url: URL,
        headers: list[tuple[bytes, bytes]],
        body: bytes = b"",
    ) -> aiohttp.ClientResponse:
        """Send a request and return its response as soon as the head is there.

        To be closed by whoever reads it: unless its body has ended and the connection went back to
        the pool, that closes the connection too.

        Raises:
            aiohttp.ClientError: the connection was lost, or what came is not HTTP; one of
                `UNREACHABLE`: nothing was reached.
        """
        try:
            response = await self._send(self._kept, method, url, headers, body)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not is_reused.get():
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
        fields = [(name.decode(), header_text(value)) for name, value in headers]
        data: AsyncIterator[bytes] | bytes | None = body or None
        if len(body) > PIECE_BYTES:
            data = pieces(body)
            fields.append(("Content-Length", str(len(body))))
        return await session.request(method, url, headers=fields, data=data, allow_redirects=False)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._kept.close()
        await self._fresh.close()
