"""Which connections the transport keeps, uses again, replaces and closes, on real sockets."""

import asyncio
import socket
import threading
from typing import Any

import aiohttp
import pytest
from aiohttp.connector import Connection

from upstream import transport
from tests.upstream.transport_peer import OK, answer_all, client_at, client_of, replying


def test_connection_is_kept_for_the_next_request() -> None:
    async def main() -> None:
        async with client_of(answer_all) as (client, asked):
            for _ in range(5):
                assert await client.get("/a?b=c") == b"ok"
            assert len(asked) == 1
            assert asked[0].count(b"GET /a?b=c HTTP/1.1\r\n") == 5
            assert b"\r\nHost: 127.0.0.1:" in asked[0]

    asyncio.run(main())


def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    async def main() -> None:
        async with client_of(answer_all) as (client, asked):
            answers = await asyncio.gather(*(client.get("/") for _ in range(150)))
            assert {*answers} == {b"ok"}
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
                assert await client.get("/") == b"ok"
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
            async with client.stream("/large"):
                await asyncio.sleep(0.2)
            assert await client.get("/small") == b"ok"

    asyncio.run(main())


def test_connection_that_the_server_closed_meanwhile_is_not_used_again() -> None:
    async def main() -> None:
        async with client_of(replying(OK)) as (client, asked):
            for _ in range(2):
                assert await client.get("/") == b"ok"
                await asyncio.sleep(0.2)
            assert len(asked) == 2

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
            assert await client.get("/01") == b"01"
            await said.wait()
            await asyncio.sleep(0.05)
            assert await client.post("/02") == b"02"
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
            answers += await asyncio.gather(*(client.post("/again") for _ in range(4)))
            assert {*answers} == {b"ok"}
            assert sum(b"/again" in each for each in asked) == 4 + 4, "sent on one, then on another"
            assert len(asked) == 8 + 4, "tried on another that is dead"

    asyncio.run(main())


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_connection_that_closes_before_the_request_leaves_is_replaced_however_late_that_shows(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    """Between the choice of the connection and the write, on a machine that is busy."""
    choose = transport.Connector.connect

    async def choose_one_that_closes(
        self: transport.Connector, *args: Any, **more: Any
    ) -> Connection:
        connection = await choose(self, *args, **more)
        if transport.is_reused.get():
            assert connection.transport
            if body:  # it is written by a task that begins later
                asyncio.get_running_loop().call_soon(connection.transport.close)
            else:
                connection.transport.close()
        return connection

    monkeypatch.setattr(transport.Connector, "connect", choose_one_that_closes)
    monkeypatch.setattr(transport, "STALE_SECONDS", -1)

    async def main() -> None:
        async with client_of(answer_all) as (client, asked):
            assert await client.get("/") == b"ok"
            assert await client.post("/again", body) == b"ok"
            assert [each[:5] for each in asked] == [b"GET /", b"POST "]

    asyncio.run(main())


def test_connection_that_closed_while_the_loop_was_busy_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "STALE_SECONDS", -1)
    may_close, has_closed = threading.Event(), threading.Event()

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as file:
                while file.readline().strip():
                    pass
                connection.sendall(OK)
                may_close.wait()
            has_closed.set()

    async def main(port: int) -> None:
        async with client_at(f"http://127.0.0.1:{port}") as client:
            assert await client.get("/") == b"ok"
            may_close.set()
            has_closed.wait()  # the loop sees nothing of it
            assert await client.post("/again") == b"ok"

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        asyncio.run(main(listener.getsockname()[1]))
        server.join()


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_request_that_dies_after_a_while_is_not_sent_again(method: str) -> None:
    """Whoever worked on it may have run out of memory by it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(4 * transport.STALE_SECONDS)

    async def main() -> None:
        async with client_of(serve) as (client, asked):
            assert await client.get("/") == b"ok"
            with pytest.raises(aiohttp.ClientError):
                async with client.stream("/", method):
                    pass
            assert len(asked) == 1 and asked[0].count(method.encode()) == 1

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
            assert await client.post("/", body) == b"ok"
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
            with pytest.raises(aiohttp.ClientError):
                await client.post("/")
            assert len(asked) == 1

    asyncio.run(main())


def test_refused_connection_is_not_tried_again_behind_a_reused_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is known of a task's earlier request says nothing of its next one."""
    opened: list[object] = []

    def counted(address: object) -> socket.socket:
        opened.append(address)
        return create_socket(address)

    async def main() -> None:
        async with client_of(answer_all) as (client, _):
            for _ in range(2):
                await client.get("/")
            opened.clear()
            with pytest.raises(aiohttp.ClientConnectorError):
                await client.post("http://127.0.0.1:9/")
            assert len(opened) == 1

    create_socket = transport.create_socket
    monkeypatch.setattr(transport, "create_socket", counted)
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
            with pytest.raises(aiohttp.ClientError):
                await client.post("/")
            assert len(asked) == 1

    asyncio.run(main())


def test_cancelled_request_closes_its_connection() -> None:
    closed = asyncio.Event()

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
            await asyncio.wait_for(closed.wait(), 30)

    asyncio.run(main())


def test_connection_does_not_idle_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert transport.KEEPALIVE_SECONDS <= 15
    monkeypatch.setattr(transport, "KEEPALIVE_SECONDS", 0.1)
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
