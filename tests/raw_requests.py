"""Requests as bytes, for the tests that put them on a socket themselves."""

import re
import socket

HOST = b"Host: localhost\r\n"
ASK = b'{"prompt": "Why?"}'
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LAST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
JUNK = b"\0\xff junk \r\n\r\n"


def head(*lines: bytes, path: bytes = b"/generate", version: bytes = b"1.1") -> bytes:
    """Return a request's head: what an answer needs, and these lines."""
    start = b"POST %s HTTP/%s\r\nContent-Type: application/json\r\n" % (path, version)
    return start + b"".join(lines) + b"\r\n"


def whole(*lines: bytes, body: bytes = ASK, path: bytes = b"/generate") -> bytes:
    """Return a request with these lines and its body's right length."""
    return head(HOST, b"Content-Length: %d\r\n" % len(body), *lines, path=path) + body


def statuses(answers: bytes) -> list[int]:
    """Return the statuses of all answers."""
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", answers)]


def flood(connection: socket.socket, piece: bytes, most: int = 150_000_000) -> int:
    """Send a piece over and over; return how many bytes went until nobody took more of them."""
    pieces = piece * (100_000 // len(piece))
    sent = 0
    try:
        while sent < most:
            sent += connection.send(pieces)
    except (ConnectionResetError, BrokenPipeError, TimeoutError):
        pass
    return sent
