"""For the transport's tests: a server made of the few lines that say how it answers, a client."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing

import aiohttp
from yarl import URL

from upstream.transport import Transport

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Client:
    """Asks a server through the transport."""

    def __init__(self, transport: Transport, url: URL) -> None:
        self._transport = transport
        self.url = url

    @asynccontextmanager
    async def stream(
        self, target: str, method: str = "GET", body: bytes = b""
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; yield its answer as soon as the head is there."""
        url = self.url.join(URL(target))
        with closing(await self._transport.send(method, url, [], body)) as answer:
            yield answer

    async def get(self, target: str) -> bytes:
        """Return the answer to a GET."""
        async with self.stream(target) as answer:
            return await answer.read()

    async def post(self, target: str, body: bytes = b"") -> bytes:
        """Return the answer to a POST."""
        async with self.stream(target, "POST", body) as answer:
            return await answer.read()


@asynccontextmanager
async def client_at(
    url: str = "http://nowhere", connect_timeout: float = 60
) -> AsyncIterator[Client]:
    """Yield a client of whatever listens there."""
    transport = Transport(connect_timeout)
    try:
        yield Client(transport, URL(url))
    finally:
        await transport.aclose()


@asynccontextmanager
async def client_of(serve: Serve) -> AsyncIterator[tuple[Client, list[bytes]]]:
    """Start a server; yield a client of it, and what the server was asked, a connection an item."""
    asked: list[bytes] = []

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(b"")
        number = len(asked) - 1

        class Recording:
            async def readuntil(self, end: bytes) -> bytes:
                data = await reader.readuntil(end)
                asked[number] += data
                return data

        try:
            await serve(Recording(), writer)  # type: ignore[arg-type]
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(connection, "127.0.0.1", 0, limit=2**24)
    port = server.sockets[0].getsockname()[1]
    try:
        async with client_at(f"http://127.0.0.1:{port}") as client:
            yield client, asked
    finally:
        server.close()


async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request on the connection."""
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)


def replying(data: bytes) -> Serve:
    """Answer the first request with these bytes and hang up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0.05)

    return serve
