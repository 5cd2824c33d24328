"""Requests as bytes: each is answered once or refused, and none is taken for another."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import read_log
from tests.processes import SERVE, Process, process
from tests.raw_requests import ASK, CHUNKED, HOST, JUNK, LAST, flood, head, statuses, whole
from tests.test_slow_reader import BUFFERS, resident
from tests.ways import connect, read_all

ASK_IN_CHUNKS = b"9;why=not\r\n" + ASK[:9] + b"\r\n9\r\n" + ASK[9:] + b"\r\n0\r\n"
WEBSOCKET = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"


def length(value: bytes) -> bytes:
    """Return a request whose length is said to be this."""
    return head(HOST, b"Content-Length: %s\r\n" % value) + ASK


def coded(value: bytes, *lines: bytes) -> bytes:
    """Return a request in chunks whose coding is said to be this."""
    return head(HOST, b"Transfer-Encoding: %s\r\n" % value, *lines) + ASK_IN_CHUNKS + b"\r\n"


def in_chunks(body: bytes) -> bytes:
    """Return a request with this body as it is."""
    return head(HOST, CHUNKED) + body


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A service on the stub in a process of its own."""
    log_dir = tmp_path_factory.mktemp("raw") / "logs"
    with process(SERVE, log_dir, MINIVAULT_STUB_DELAY="0") as service:
        yield service
        # an `Upgrade` that is not followed is worth no line either
        assert not re.search("Traceback|ERROR|pgrade", service.output)


ANSWERED = {
    "whole": whole(),
    "leading capital letters": whole().replace(b"content", b"CONTENT"),
    "Upgrade: h2c, in one packet": whole(H2C),
    "Upgrade: h2c, in chunks": coded(b"chunked", H2C),
    "Upgrade: websocket": whole(WEBSOCKET),
    "chunks with extensions": coded(b"chunked"),
    "chunks with trailers": in_chunks(ASK_IN_CHUNKS + b"X-Sum: 1\r\n\r\n"),
    "coding in capitals": coded(b"CHUNKED"),
    "folded line": whole(b"X-Fold: a\r\n b\r\n"),
    "the same length twice": whole(b"Content-Length: %d\r\n" % len(ASK)),
    "bytes beyond ASCII": whole(b"X-Name: \xe4\xff\r\n"),
    "many lines": whole(b"X-Line: 1\r\n" * 1000),
    "query of 60 kB": whole(path=b"/generate?" + b"q" * 60_000),
}


@pytest.mark.parametrize("request_", ANSWERED.values(), ids=ANSWERED.keys())
def test_request_is_answered_and_the_next_one_begins_where_it_ends(
    stub: Process, request_: bytes
) -> None:
    before = len(read_log(stub.log_dir))
    with connect(stub.url) as connection:
        connection.sendall(request_ + LAST)
        assert statuses(read_all(connection)) == [200, 200]
    (entry,) = read_log(stub.log_dir)[before:]
    assert (entry["prompt"], entry["status"]) == ("Why?", "ok")


def test_h2c_in_two_packets_as_the_jdk_sends_it_is_answered(stub: Process) -> None:
    request_head, _, body = whole(H2C).partition(b"\r\n\r\n")
    with connect(stub.url) as connection:
        connection.sendall(request_head + b"\r\n\r\n")
        time.sleep(0.1)  # else they are one
        connection.sendall(body + LAST)
        assert statuses(read_all(connection)) == [200, 200]


def test_expected_continue_is_said_before_the_body_comes(stub: Process) -> None:
    request_head, _, body = whole(b"Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    with connect(stub.url) as connection:
        connection.sendall(request_head + b"\r\n\r\n")
        assert statuses(connection.recv(1000)) == [100]
        connection.sendall(body + LAST)
        assert statuses(read_all(connection)) == [200, 200]


REFUSED = {
    "two lengths": whole(b"Content-Length: 3\r\n"),
    "length with a sign": length(b"+18"),
    "length below zero": length(b"-1"),
    "length in hexadecimal": length(b"0x12"),
    "length with a space": length(b"1 8"),
    "no length at all": length(b""),
    "unknown coding": coded(b"xchunked"),
    "coding behind a control byte": coded(b"\x0bchunked"),
    "chunks and then another coding": coded(b"chunked, identity"),
    "coding twice": coded(b"chunked", CHUNKED),
    "coding with a space before its colon": head(HOST, b"Transfer-Encoding : chunked\r\n"),
    "chunk size with a sign": in_chunks(b"+9\r\n" + ASK),
    "chunk size with a prefix": in_chunks(b"0x9\r\n" + ASK),
    "chunk longer than its size": in_chunks(b"5\r\n" + ASK + b"\r\n0\r\n\r\n"),
    "line without a colon": whole(b"X-Line\r\n"),
    "space in a name": whole(b"X Line: 1\r\n"),
    "carriage return in a value": whole(b"X-Line: a\rContent-Length: 0\r\n"),
    "NUL in a value": whole(b"X-Line: a\0\r\n"),
    "NUL in a name": whole(b"X\0Line: a\r\n"),
    "NUL in the path": whole(path=b"/\0"),
    "path beyond ASCII": whole(path=b"/\xe4"),
    "no Host": head(b"Content-Length: 0\r\n"),
    "two Hosts": whole(b"Host: evil.example\r\n"),
    "a name that is not ours": whole().replace(b"localhost", b"evil.example") + LAST,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\xf1\x01\x00\x00\xed\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("request_", REFUSED.values(), ids=REFUSED.keys())
def test_request_is_refused_and_nothing_of_it_is_taken_for_another(
    stub: Process, request_: bytes
) -> None:
    before = len(read_log(stub.log_dir))
    with connect(stub.url) as connection:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        answers = read_all(connection)
    assert set(statuses(answers)) - {200} == {400}
    assert answers.lower().count(b"\r\nx-request-id: ") == len(statuses(answers))
    assert b'\r\n\r\n{"detail":"' in answers
    assert len(read_log(stub.log_dir)) == before


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        (b"/stream", b'{"detail":"'),
        (b"/api/chat", b'{"error":"'),
        (b"/v1/chat/completions", b'{"error":{"message":"'),
        (b"/v1/messages", b'{"type":"error","error":{"type":"invalid_request_error"'),
    ],
)
def test_what_is_no_http_is_refused_in_the_shape_of_what_it_asks(
    stub: Process, path: bytes, shape: bytes
) -> None:
    with connect(stub.url) as connection:
        connection.sendall(head(HOST, CHUNKED, path=path) + b"no size\r\n")
        answer = read_all(connection)
    assert statuses(answer) == [400] and answer.partition(b"\r\n\r\n")[2].startswith(shape)
    with connect(stub.url) as connection:
        connection.sendall(whole(path=path) + JUNK)
        first, second = re.findall(rb"(?i)x-request-id: (\S+)", answers := read_all(connection))
    assert first != second and b'\r\n\r\n{"detail":"' in answers  # it asks for nothing


ENDLESS = {
    "line": (head(HOST)[:-2] + b"X-Line: ", b"a"),
    "lines": (head(HOST)[:-2], b"X-Line: a\r\n"),
    "path": (b"GET /", b"a"),
    "empty lines": (b"", b"\r\n"),
    "chunk extension": (in_chunks(b"5;"), b"a"),
    "trailers": (in_chunks(b"0\r\n"), b"X-Line: a\r\n"),
}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(("start", "more"), ENDLESS.values(), ids=ENDLESS.keys())
def test_endless_head_is_cut_off_early(stub: Process, start: bytes, more: bytes) -> None:
    before = resident(stub.popen.pid)
    with connect(stub.url) as connection:
        connection.sendall(start)
        assert flood(connection, more) < BUFFERS
    assert resident(stub.popen.pid) - before < BUFFERS


def test_junk_in_a_body_whose_answer_is_out_only_ends_the_connection(stub: Process) -> None:
    with connect(stub.url) as connection:
        connection.sendall(head(HOST, CHUNKED, path=b"/nowhere") + b"4\r\nmore\r\n")
        assert statuses(connection.recv(1000)) == [404]
        connection.sendall(b"junk\r\n" + LAST)
        assert statuses(read_all(connection)) == []


@pytest.mark.parametrize("method", [b"POST", b"GET", b"HEAD"])
@pytest.mark.parametrize("path", [b"/nowhere", b"/health"])
def test_junk_in_a_body_that_comes_with_its_head_gets_one_answer(
    stub: Process, path: bytes, method: bytes
) -> None:
    junk = head(HOST, CHUNKED, path=path).replace(b"POST", method, 1) + b"no size\r\n"
    with connect(stub.url) as connection:
        connection.sendall(junk)
        answer = read_all(connection)
        assert statuses(answer) == [400]
        assert answer.endswith(b"\r\n\r\n") == (method == b"HEAD")
    with connect(stub.url) as connection:
        connection.sendall(whole() + junk)
        assert statuses(read_all(connection)) == [200, 400]
