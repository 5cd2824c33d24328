"""A transport for httpx that carries streams: HTTP/1.1, parsed in C by httptools, as in uvicorn.

httpx's own transport parses in Python, yields every HTTP chunk by itself, and its pool is quadratic
in open connections. Here all that one read of the socket brought is handed on at once.

What it leaves out, as Ollama needs none of it: proxies, HTTP/2, a limit on connections, every
timeout but `connect`. A body that ends with its connection and not before counts as cut off.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from functools import cached_property

import httptools
import httpx

HIGH_WATER = 65536
"""Bytes of a body that may wait to be read before the peer is slowed down."""

MAX_IDLE = 32
"""Connections that are kept for later requests; each takes some 20 kB."""


class Connection(asyncio.Protocol):
    """One connection, and the response that comes in on it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport
        self.is_open = False
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._has_head = False
        self._body: list[bytes] = []
        self._waiting_bytes = 0
        self._is_complete = False
        self._may_go_on = False
        self._error: httpx.TransportError | None = None

    @property
    def is_reusable(self) -> bool:
        """Whether the response has been read to its end and the connection may carry another."""
        return self.is_open and self._may_go_on and not self._body

    async def request(self, data: bytes) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Send a request and return its response's status and headers.

        Raises:
            httpx.TransportError: the connection was lost, or what came is not HTTP.
        """
        self._begin()
        self._transport.write(data)
        while not self._has_head:
            await self._more()
        return self._parser.get_status_code(), self._headers

    async def read(self) -> bytes:
        """Return what has come of the body since the last time, nothing at its end.

        Raises:
            httpx.TransportError: the connection was lost, or what came is not HTTP.
        """
        while not self._body:
            if self._is_complete:
                return b""
            await self._more()
        data = b"".join(self._body)
        self._body.clear()
        if self._waiting_bytes > HIGH_WATER:
            self._transport.resume_reading()
        self._waiting_bytes = 0
        return data

    def close(self) -> None:
        """Close the connection at once."""
        self.is_open = False
        self._transport.abort()

    async def _more(self) -> None:
        if self._error:
            raise self._error
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter and not waiter.done():
            waiter.set_result(None)

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if self._is_complete:  # nobody asked for more, so it can answer no later request
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._error = httpx.RemoteProtocolError(f"not HTTP: {exc}")
            self.close()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        reason = str(exc) if exc else "the connection was closed"
        self._error = self._error or httpx.ReadError(reason)
        self._wake()

    # httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._has_head = True

    def on_body(self, data: bytes) -> None:
        self._body.append(data)
        was, self._waiting_bytes = self._waiting_bytes, self._waiting_bytes + len(data)
        if was <= HIGH_WATER < self._waiting_bytes:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._is_complete = True
        self._may_go_on = self._parser.should_keep_alive()


class ResponseStream(httpx.AsyncByteStream):
    """A response's body, in pieces as large as the reads that brought them."""

    def __init__(self, connection: Connection, idle: list[Connection]) -> None:
        self._connection = connection
        self._idle = idle

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._connection.read():
            yield data

    async def aclose(self) -> None:
        """Keep the connection for the next request where the body has ended, else close it."""
        if self._connection.is_reusable and len(self._idle) < MAX_IDLE:
            self._idle.append(self._connection)
        else:
            self._connection.close()


class StreamTransport(httpx.AsyncBaseTransport):
    """Sends httpx's requests to one origin; of the timeouts it keeps `connect`."""

    def __init__(self) -> None:
        self._idle: list[Connection] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response as soon as the head is there."""
        body = await request.aread()
        connection = await self._connect(request)
        try:
            status, headers = await connection.request(head(request) + body)
        except BaseException:
            connection.close()
            raise
        stream = ResponseStream(connection, self._idle)
        return httpx.Response(status, headers=headers, stream=stream, request=request)

    async def aclose(self) -> None:
        """Close all connections that wait for a request."""
        while self._idle:
            self._idle.pop().close()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()  # 50 ms of CPU, so once and only where it is needed

    async def _connect(self, request: httpx.Request) -> Connection:
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
        url = request.url
        is_tls = url.scheme == "https"
        try:
            async with asyncio.timeout(request.extensions["timeout"]["connect"]):
                _, connection = await asyncio.get_running_loop().create_connection(
                    Connection,
                    url.host,
                    url.port or (443 if is_tls else 80),
                    ssl=self._tls if is_tls else None,
                )
        except TimeoutError as exc:
            raise httpx.ConnectTimeout("no connection in time") from exc
        except OSError as exc:
            raise httpx.ConnectError(str(exc)) from exc
        return connection


def head(request: httpx.Request) -> bytes:
    """Return a request's head as HTTP/1.1 has it."""
    lines = [b"%s %s HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%s: %s" % header for header in request.headers.raw]
    return b"\r\n".join(lines) + b"\r\n\r\n"
