"""HTTP to Ollama, against real sockets: what is sent, read and reported."""

import asyncio
import gc
import itertools
import socket
import ssl
import sys
from contextlib import ExitStack

import aiohttp
import pytest
import trustme

from llm_services import LLMServiceError, OllamaLLMService
from settings import Settings
from tests.upstream.transport_peer import OK, answer_all, client_at, client_of, replying
from upstream.transport import UNREACHABLE, describe_error


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", aiohttp.ServerDisconnectedError),
        (b"HTTP/1.1 200 O", aiohttp.ServerDisconnectedError),
        (OK + b"unasked", aiohttp.ClientResponseError),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, aiohttp.ClientResponseError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, aiohttp.ClientResponseError),
        (b"220 mail.example ESMTP\r\n", aiohttp.ClientResponseError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", aiohttp.ClientPayloadError),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok",
            aiohttp.ClientPayloadError,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            aiohttp.ClientResponseError,
        ),
    ],
)
def test_what_is_cut_off_or_no_http_is_an_error(
    data: bytes, error: type[aiohttp.ClientError]
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
            async with client.stream("/") as answer:
                pieces = answer.content.iter_any()
                assert await anext(pieces) == b"ok"
                has_begun.set()
                assert await anext(pieces, b"end") == b"end"
            async with client.stream("/") as answer:
                pieces = answer.content.iter_any()
                assert await anext(pieces) == b"ok"
                has_begun.set()
                with pytest.raises(aiohttp.ClientPayloadError):
                    await anext(pieces)
            assert len(asked) == 1

    asyncio.run(main())


def test_where_nobody_listens_or_no_name_is_found_nothing_is_reached() -> None:
    async def main() -> None:
        async with client_at(connect_timeout=0.2) as client:
            with pytest.raises(aiohttp.ClientConnectorError, match="Connect call failed"):
                await client.get("http://127.0.0.1:9/")
            # a resolver that takes its time makes it a timeout
            with pytest.raises(UNREACHABLE):
                await client.get("http://no.such.host.invalid/")

    asyncio.run(main())


def test_connection_that_is_not_accepted_is_given_up() -> None:
    async def main() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            async with client_at(connect_timeout=0.2) as client:
                with pytest.raises(aiohttp.ConnectionTimeoutError):
                    await client.get(f"http://127.0.0.1:{full.getsockname()[1]}/")
            for filler in fillers:
                filler.close()

    asyncio.run(main())


def test_tokens_that_arrive_together_are_read_together() -> None:
    body = b"".join(b"5\r\n12345\r\n" for _ in range(100)) + b"0\r\n\r\n"

    async def main() -> None:
        data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
        async with client_of(replying(data)) as (client, _):
            async with client.stream("/") as response:
                assert [len(part) async for part in response.content.iter_any()] == [500]

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
            async with client.stream("/") as response:
                body = b""
                async for part in response.content.iter_any():
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
        async with client_at(url) as client:
            with pytest.raises(aiohttp.ClientConnectorError, match="certificate"):
                await client.get("/")
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
            assert [await client.get("/") for _ in range(4)] == [b"00", b"01", b"02", b"03"]

    asyncio.run(main())


def test_address_that_does_not_answer_does_not_hide_one_that_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name with a dead IPv6 address first, as many home networks have it."""

    async def main() -> None:
        async with client_of(answer_all) as (client, _):
            port = client.url.port
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
                assert await client.get(f"http://two.example:{port}/") == b"ok"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (aiohttp.ClientPayloadError("not\n  whole"), "not whole"),
        (aiohttp.ClientOSError(104, "Connection reset by peer"), "Connection reset by peer"),
        (aiohttp.ServerDisconnectedError(), "Server disconnected"),
        (aiohttp.ServerDisconnectedError(object()), "ServerDisconnectedError"),  # type: ignore
        (aiohttp.ClientError(), "ClientError"),
    ],
)
def test_words_of_an_error_are_one_line(error: aiohttp.ClientError, words: str) -> None:
    assert describe_error(error) == words


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
def test_body_of_a_request_that_failed_is_let_go(answer: bytes | None) -> None:
    """In a cycle of errors and frames it stayed until garbage was looked for, some 40 at a time."""

    async def fail(url: str) -> None:
        async with OllamaLLMService(url, "tinyllama", Settings()) as service:
            for _ in range(5):
                with pytest.raises(LLMServiceError):
                    async with service.request("POST", b"/", [], body) as head:
                        await head.read(100)

    async def main() -> None:
        if answer is None:
            return await fail("http://127.0.0.1:9")
        async with client_of(replying(answer)) as (client, _):
            await fail(str(client.url))

    body = b"x" * 100
    before = sys.getrefcount(body)
    gc.disable()
    try:
        asyncio.run(main())
        assert sys.getrefcount(body) == before
    finally:
        gc.enable()
