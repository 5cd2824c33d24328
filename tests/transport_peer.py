"""A peer for the transport's tests: a server made of the few lines that say how it answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx

from transport import StreamTransport

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def client_of(serve: Serve) -> AsyncIterator[tuple[httpx.AsyncClient, list[bytes]]]:
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
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            transport=StreamTransport(),
            timeout=httpx.Timeout(None, connect=60),
        ) as client:
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
