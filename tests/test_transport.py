"""The transport under httpx, against real sockets: what is sent, kept, closed and reported."""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

import transport
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

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            transport=StreamTransport(),
            timeout=httpx.Timeout(None, connect=5),
        ) as client:
            yield client, asked
    finally:
        server.close()


async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request on the connection."""
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close the connection."""


def replying(data: bytes) -> Serve:
    """Answer the first request with these bytes and hang up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0.05)

    return serve


def test_connection_is_kept_for_the_next_request() -> None:
    async def main() -> None:
        async with client_of(answer_all) as (client, asked):
            for _ in range(5):
                assert (await client.get("/a?b=c")).text == "ok"
            assert len(asked) == 1
            assert asked[0].count(b"GET /a?b=c HTTP/1.1\r\n") == 5
            assert b"\r\nHost: 127.0.0.1:" in asked[0]

    asyncio.run(main())


def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    async def main() -> None:
        async with client_of(answer_all) as (client, asked):
            answers = await asyncio.gather(*(client.get("/") for _ in range(150)))
            assert {answer.text for answer in answers} == {"ok"}
            assert len(asked) == 150, "there is a limit on connections"
            await asyncio.gather(*(client.get("/") for _ in range(150)))
            assert len(asked) == 300 - transport.MAX_IDLE, "idle connections have no limit"

    asyncio.run(main())


@pytest.mark.parametrize(
    "data",
    [
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
        OK + b"unasked",
    ],
)
def test_connection_that_cannot_be_kept_is_not(data: bytes) -> None:
    async def main() -> None:
        async with client_of(replying(data)) as (client, asked):
            for _ in range(3):
                assert (await client.get("/")).text == "ok"
                await asyncio.sleep(0.01)
            assert len(asked) == 3

    asyncio.run(main())


def test_connection_with_an_unread_body_is_not_used_again() -> None:
    """Its reading may be paused, and the next response would never come."""
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b"/large" in await reader.readuntil(b"\r\n\r\n"):
            writer.write(large)
        writer.write(OK)
        await writer.drain()

    async def main() -> None:
        async with client_of(serve) as (client, _), asyncio.timeout(30):
            async with client.stream("GET", "/large"):
                await asyncio.sleep(0.2)
            assert (await client.get("/small")).text == "ok"

    asyncio.run(main())


def test_connection_that_the_server_closed_meanwhile_is_not_used_again() -> None:
    async def main() -> None:
        async with client_of(replying(OK)) as (client, asked):
            for _ in range(2):
                assert (await client.get("/")).text == "ok"
                await asyncio.sleep(0.2)
            assert len(asked) == 2

    asyncio.run(main())


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", httpx.ReadError),
        (b"HTTP/1.1 200 O", httpx.ReadError),
        (b"220 mail.example ESMTP\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", httpx.ReadError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok", httpx.ReadError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", httpx.RemoteProtocolError),
    ],
)
def test_what_is_cut_off_or_no_http_is_a_transport_error(
    data: bytes, error: type[httpx.TransportError]
) -> None:
    async def main() -> None:
        async with client_of(replying(data)) as (client, _):
            with pytest.raises(error):
                await client.get("/")

    asyncio.run(main())


def test_nobody_listening_is_a_connect_error_and_no_answer_a_connect_timeout() -> None:
    async def main() -> None:
        async with httpx.AsyncClient(transport=StreamTransport(), timeout=0.2) as client:
            with pytest.raises(httpx.ConnectError, match="111|61"):
                await client.get("http://127.0.0.1:9/")
            # a resolver that takes its time makes it a timeout
            with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)):
                await client.get("http://no.such.host.invalid/")

    asyncio.run(main())


def test_connection_that_is_not_accepted_is_a_connect_timeout() -> None:
    async def main() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            async with httpx.AsyncClient(transport=StreamTransport(), timeout=0.2) as client:
                with pytest.raises(httpx.ConnectTimeout):
                    await client.get(f"http://127.0.0.1:{full.getsockname()[1]}/")
            for filler in fillers:
                filler.close()

    asyncio.run(main())


def test_cancelled_request_closes_its_connection() -> None:
    closed = threading.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            await reader.readuntil(b"never")
        finally:
            closed.set()

    async def main() -> None:
        async with client_of(never) as (client, asked):
            request = asyncio.create_task(client.get("/"))
            while not (asked and asked[0]):
                await asyncio.sleep(0.01)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            async with asyncio.timeout(30):
                while not closed.is_set():
                    await asyncio.sleep(0.01)

    asyncio.run(main())


def test_tokens_that_arrive_together_are_read_together() -> None:
    body = b"".join(b"5\r\n12345\r\n" for _ in range(100)) + b"0\r\n\r\n"

    async def main() -> None:
        data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
        async with client_of(replying(data)) as (client, _):
            async with client.stream("GET", "/") as response:
                assert [len(part) async for part in response.aiter_raw()] == [500]

    asyncio.run(main())


def test_https_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[ssl.SSLContext] = []
    create = httpx.create_ssl_context
    monkeypatch.setattr(
        transport.httpx, "create_ssl_context", lambda: used.append(create()) or used[-1]
    )

    async def main() -> None:
        async with client_of(hang_up) as (client, _):
            url = str(client.base_url).replace("http:", "https:")
            for _ in range(2):
                with pytest.raises(httpx.ConnectError):
                    await client.get(url)

    asyncio.run(main())
    assert len(used) == 1, "making a context takes 50 ms of the event loop"
    assert used[0].verify_mode is ssl.CERT_REQUIRED and used[0].check_hostname
