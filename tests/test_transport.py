"""The transport under httpx, against real sockets: what is sent, kept, closed and reported."""

import asyncio
import itertools
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager

import httpx
import pytest
import trustme

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

    server = await asyncio.start_server(connection, "127.0.0.1", 0, limit=2**24)
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

    asyncio.run(main())


@pytest.mark.parametrize(
    "data",
    [
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
        OK + OK.replace(b"ok", b"no"),
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
        (OK + b"unasked", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, httpx.RemoteProtocolError),
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


def test_what_is_no_http_in_the_middle_of_a_body_ends_it_at_once() -> None:
    """Also on a connection that has carried another."""

    async def main() -> None:
        has_begun = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for end in (b"0\r\n\r\n", b"no size\r\n"):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
                await has_begun.wait()
                has_begun.clear()
                writer.write(end)
            await reader.readuntil(b"never")

        async with client_of(serve) as (client, asked):
            async with client.stream("GET", "/") as answer:
                pieces = answer.aiter_raw()
                assert await anext(pieces) == b"ok"
                has_begun.set()
                assert await anext(pieces, b"end") == b"end"
            async with client.stream("GET", "/") as answer:
                pieces = answer.aiter_raw()
                assert await anext(pieces) == b"ok"
                has_begun.set()
                with pytest.raises(httpx.ReadError):
                    await anext(pieces)
            assert len(asked) == 1

    asyncio.run(main())


def test_nobody_listening_is_a_connect_error_and_no_answer_a_connect_timeout() -> None:
    async def main() -> None:
        async with httpx.AsyncClient(transport=StreamTransport(), timeout=0.2) as client:
            with pytest.raises(httpx.ConnectError, match="Connect call failed"):
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


def test_pause_at_the_end_of_a_read_does_not_hold_up_what_follows() -> None:
    """aiohttp pauses at more than 16,384 HTTP chunks, its parser until the next one."""
    many, last = b"1\r\n\n\r\n" * 16385, b"1\r\n!\r\n" * 6 + b"0\r\n\r\n"
    goes_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + many)
        await goes_on.wait()
        writer.write(last)
        await reader.readuntil(b"never")

    async def main() -> None:
        async with client_of(serve) as (client, _), asyncio.timeout(30):
            async with client.stream("GET", "/") as response:
                body = b""
                async for part in response.aiter_raw():
                    body += part
                    if len(body) == 16385:
                        goes_on.set()
        assert body == b"\n" * 16385 + b"!" * 6

    asyncio.run(main())


def test_https_is_verified() -> None:
    async def main() -> None:
        certificate = trustme.CA().issue_cert("127.0.0.1")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(context)
        server = await asyncio.start_server(answer_all, "127.0.0.1", 0, ssl=context)
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with httpx.AsyncClient(transport=StreamTransport()) as client:
            with pytest.raises(httpx.ConnectError, match="certificate"):
                await client.get(url)
        server.close()

    asyncio.run(main())


@pytest.mark.parametrize("status", [100, 102, 103])
def test_interim_answer_is_not_taken_for_the_next_request_s(status: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in itertools.count():
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 %d X\r\nLink: </a>\r\n\r\n" % status)
            await writer.drain()
            writer.write(OK.replace(b"ok", b"%02d" % number))

    async def main() -> None:
        async with client_of(serve) as (client, _):
            assert [(await client.get("/")).text for _ in range(4)] == ["00", "01", "02", "03"]

    asyncio.run(main())


@pytest.mark.parametrize("unasked", [OK, b"HTTP/1.1 408 X\r\nContent-Length: 0\r\n\r\n"])
def test_what_nobody_asked_for_is_not_taken_for_the_next_answer(unasked: bytes) -> None:
    """As a proxy's word that it closes an idle connection, or an answer that came twice."""
    said = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(OK.replace(b"ok", head.partition(b" /")[2][:2]))
        if b"/01" in head:
            await asyncio.sleep(0.05)  # else it came with the answer
            writer.write(unasked)
            await writer.drain()
            said.set()
        await reader.readuntil(b"\r\n\r\n")

    async def main() -> None:
        async with client_of(serve) as (client, asked):
            assert (await client.get("/01")).text == "01"
            await said.wait()
            await asyncio.sleep(0.05)
            assert (await client.post("/02")).text == "02"
            assert [each[:8] for each in asked] == [b"GET /01 ", b"POST /02"]

    asyncio.run(main())


def test_reused_connection_that_died_is_replaced_once_by_a_fresh_one() -> None:
    """As after a restart behind a NAT: every kept connection is dead, and none of them says so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        if b"/kept" in head:
            await reader.readuntil(b"\r\n\r\n")  # and hang up without an answer

    async def main() -> None:
        async with client_of(serve) as (client, asked):
            answers = await asyncio.gather(*(client.get("/kept") for _ in range(8)))
            assert len(asked) == 8
            answers += await asyncio.gather(*(client.post("/again") for _ in range(8)))
            assert {answer.text for answer in answers} == {"ok"}
            assert sum(b"/again" in each for each in asked) == 8 + 8, "sent on one, then on another"

    asyncio.run(main())


def test_large_body_goes_whole_also_on_the_second_try() -> None:
    body = b"x" * 3_000_000 + b"END"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"POST" in head and len(asked) == 1:
                return  # with the body unread
            if b"POST" in head:
                await reader.readuntil(b"END")
            writer.write(OK)

    async def main() -> None:
        nonlocal asked
        async with client_of(serve) as (client, asked):
            await client.get("/")
            assert (await client.post("/", content=body)).text == "ok"
            head, _, sent = asked[1].partition(b"\r\n\r\n")
            assert sent == body and b"content-length: 3000003" in head.lower()
            assert b"transfer-encoding" not in head.lower()

    asked: list[bytes] = []
    asyncio.run(main())


def test_fresh_connection_that_dies_is_not_tried_again() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async def main() -> None:
        async with client_of(serve) as (client, asked):
            with pytest.raises(httpx.ReadError):
                await client.post("/")
            assert len(asked) == 1

    asyncio.run(main())


def test_answer_that_has_begun_is_not_asked_for_again() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK[:-1])

    async def main() -> None:
        async with client_of(serve) as (client, asked):
            await client.post("/")
            with pytest.raises(httpx.ReadError):
                await client.post("/")
            assert len(asked) == 1

    asyncio.run(main())


def test_connection_does_not_idle_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert transport.IDLE_SECONDS <= 15
    monkeypatch.setattr(transport, "IDLE_SECONDS", 0.1)
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
        closed.set()

    async def main() -> None:
        async with client_of(serve) as (client, _):
            await client.get("/")
            await asyncio.wait_for(closed.wait(), 30)

    asyncio.run(main())


def test_address_that_does_not_answer_does_not_hide_one_that_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name with a dead IPv6 address first, as many home networks have it."""

    async def main() -> None:
        async with client_of(answer_all) as (client, _):
            port = client.base_url.port
            assert port
            with socket.socket(socket.AF_INET6) as dead, ExitStack() as fillers:
                dead.bind(("::1", port))
                dead.listen(0)
                for _ in range(4):
                    filler = fillers.enter_context(socket.socket(socket.AF_INET6))
                    filler.setblocking(False)
                    filler.connect_ex(("::1", port))
                both = [
                    (socket.AF_INET6, ("::1", port, 0, 0)),
                    (socket.AF_INET, ("127.0.0.1", port)),
                ]
                found = [(family, socket.SOCK_STREAM, 6, "", address) for family, address in both]
                monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
                assert (await client.get(f"http://two.example:{port}/")).text == "ok"

    asyncio.run(main())


def test_name_that_is_none_is_a_connect_error() -> None:
    async def main() -> None:
        async with httpx.AsyncClient(transport=StreamTransport()) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://{'a' * 64}.example/")

    asyncio.run(main())
