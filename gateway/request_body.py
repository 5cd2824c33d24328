"""The body of a forwarded request: how it arrives, and what the log keeps of it.

What is decompressed or parsed for the record has limits: bytes, seconds, values, threads. A body
beyond them is kept as it is, and the entry says so.
"""

import asyncio
import io
import sys
import time
import zlib
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import anyio.to_thread
import python_multipart
from pydantic_core import from_json, to_json

from gateway.usage import ask_for_usage
from messages import LoggedRequest
from protocols.base import Protocol
from protocols.json_reading import (
    LENIENT_BYTES,
    TooCostlyError,
    is_costly,
    join_slowly_growing,
    parse_leniently,
    repair_utf8,
)
from web.state import Request

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LARGE_BYTES = 2**16
"""A body of this size or more is read in a thread: 10 MiB take some 10 ms."""

MAX_THREADS = 2
"""In so many threads bodies are read at a time; they are not those that look up names."""

QUOTED_GROWTH = 2
"""How many times longer a large body may become as a text in JSON."""

MAX_FORM_LINES = 1000
"""Of those that may begin a part of a form."""

DECOMPRESSION_SECONDS = 0.25
DECOMPRESSED_BYTES = 2**18
"""How much is decompressed at a time."""

COMPRESSED_BYTES = 2**14
"""How much of a compressed body is handed over at a time."""

DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "x-gzip": lambda: zlib.decompressobj(wbits=31),
    "zstd": zstd.ZstdDecompressor,
}
DECOMPRESSION_ERRORS = (EOFError, zlib.error, zstd.ZstdError)


async def collect_body(request: Request) -> bytes:
    """Return a request's body; a large one is joined in a thread, not on the event loop."""
    pieces = [piece async for piece in request.stream()]
    if sum(map(len, pieces)) < LARGE_BYTES:
        return b"".join(pieces)
    return await asyncio.to_thread(b"".join, pieces)


class RequestReader:
    """Reads the bodies of requests for the record."""

    def __init__(self, max_bytes: int) -> None:
        """Decompress at most `max_bytes` of one body."""
        self._max_bytes = max_bytes
        self._threads = anyio.CapacityLimiter(MAX_THREADS)

    async def read(
        self,
        body: bytes,
        protocol: Protocol,
        content_type: str,
        encoding: str,
        hold_bytes: Callable[[int], bool],
    ) -> LoggedRequest:
        """Return what the log keeps of a request, as far as its body can be read, and as far as
        `hold_bytes` says that there is room for what is more than the body."""
        encoding = encoding.strip().lower()
        arguments = (body, content_type, encoding, self._max_bytes, protocol)
        if not encoding and len(body) < LARGE_BYTES:
            return parse_body(*arguments)
        request = await anyio.to_thread.run_sync(parse_body, *arguments, limiter=self._threads)
        if not hold_bytes(count_more_bytes(request, body)):
            return keep_unread(body, encoding, "too many bytes of other requests are held")
        return request


def count_more_bytes(request: LoggedRequest, body: bytes) -> int:
    """Return how many bytes are held for the record beyond the body and a copy of its text."""
    texts = sys.getsizeof(request.prompt or "")
    if request.body is None or len(request.body) <= len(body):
        return max(texts - len(body), 0)
    return texts + len(request.body)


def parse_body(
    body: bytes, content_type: str, encoding: str, max_bytes: int, protocol: Protocol
) -> LoggedRequest:
    """Return what the log keeps of a body; whatever it is, it is kept."""
    if content_type.lower().startswith("multipart/form-data"):
        return read_form(body, content_type, protocol)
    try:
        content = decompress(body, encoding, max_bytes)
    except ValueError as exc:
        return keep_unread(body, encoding, str(exc))
    if is_costly(content):
        return keep_unread(body, encoding, "it would cost too much to read")
    is_json = True
    try:
        parsed = from_json(content, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        is_json = False
        try:
            parsed = parse_leniently(content, first_only=True)
        except TooCostlyError as exc:
            return keep_unread(body, encoding, str(exc))
        except ValueError as exc:
            if len(content) > LENIENT_BYTES:
                return keep_unread(body, encoding, str(exc))
            parsed = None
    request = LoggedRequest()
    if isinstance(parsed, dict):
        request = protocol.read_request(parsed)
        if is_json and not encoding and len(body) < LARGE_BYTES:
            request = replace(request, counted_body=ask_for_usage(body, parsed))
    del parsed
    if isinstance(request.prompt, str) and sys.getsizeof(request.prompt) > LARGE_BYTES:
        request = replace(request, prompt=request.prompt.encode())
    if is_json:
        return replace(request, body=content)
    try:
        return replace(request, body=quote(content))  # not as the JSON that it nearly is
    except TooCostlyError as exc:
        return keep_unread(body, encoding, str(exc))


def quote(data: bytes) -> bytes:
    """Return a text as JSON, a large one without holding up other threads; raise TooCostlyError if
    most of it has to be escaped."""
    pieces = (to_json(piece)[1:-1] for piece in repair_utf8(data))
    return join_slowly_growing(chain((b'"',), pieces, (b'"',)), len(data), QUOTED_GROWTH)


def read_form(body: bytes, content_type: str, protocol: Protocol) -> LoggedRequest:
    """Return what the log keeps of a form: its fields, files in base64."""
    fields: dict[str, Any] = {}

    def add_field(field: Any) -> None:
        fields[as_text(field.field_name)] = as_text(field.value)

    def add_file(file: Any) -> None:
        file.file_object.seek(0)
        content = b64encode(file.file_object.read()).decode()
        name = as_text(file.file_name)
        fields[as_text(file.field_name)] = {"filename": name, "base64": content}
        file.close()

    if body.count(b"\r\n--") > MAX_FORM_LINES:
        return keep_unread(body, "", "it has too many parts")
    try:
        headers = {"Content-Type": content_type.encode("latin-1", "replace")}
        python_multipart.parse_form(headers, io.BytesIO(body), add_field, add_file)
    except python_multipart.exceptions.FormParserError as exc:
        return keep_unread(body, "", f"it is not a form ({exc})")
    request = protocol.read_request({**fields, "stream": fields.get("stream") == "true"})
    return replace(request, body=to_json(fields))


def as_text(value: bytes | None) -> str:
    """Return a name or a value of a form."""
    return (value or b"").decode(errors="replace")


def keep_unread(body: bytes, encoding: str, reason: str) -> LoggedRequest:
    """Return the record of a body that was not read: the body, compressed."""
    if encoding not in DECOMPRESSORS:
        encoding, body = "gzip", zlib.compress(body, 1, 31)
    kept = {"content_encoding": encoding, "base64": b64encode(body).decode()}
    return LoggedRequest(body=to_json(kept), unread=f"the request was not read: {reason}")


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return a body without its `Content-Encoding`, of which it may have several parts.

    Raises:
        ValueError: it is not encoded in this way, has more bytes than the limit, or takes too long.
    """
    if encoding not in DECOMPRESSORS:
        return body
    end = time.monotonic() + DECOMPRESSION_SECONDS
    pieces: list[bytes] = []
    size = 0
    decompressor = DECOMPRESSORS[encoding]()
    for start in range(0, len(body), COMPRESSED_BYTES):
        data = body[start : start + COMPRESSED_BYTES]
        while data or has_output(decompressor):
            if decompressor.eof:
                decompressor = DECOMPRESSORS[encoding]()
            try:
                piece = decompressor.decompress(data, DECOMPRESSED_BYTES)
            except DECOMPRESSION_ERRORS as exc:
                raise ValueError(f"it is not {encoding} ({exc})") from exc
            pieces.append(piece)
            size += len(piece)
            # zlib's own gives back what it has not read; that of zstd keeps it
            rest = "unused_data" if decompressor.eof else "unconsumed_tail"
            data = getattr(decompressor, rest, b"")
            if size > max_bytes:
                raise ValueError(f"decompressed it has more than {max_bytes} bytes")
            if time.monotonic() > end:
                raise ValueError(f"to decompress it takes more than {DECOMPRESSION_SECONDS} s")
    if not decompressor.eof:
        raise ValueError(f"it is not {encoding} to its end")
    return b"".join(pieces)


def has_output(decompressor: Any) -> bool:
    """Return whether it can go on without more data."""
    return not decompressor.eof and not getattr(decompressor, "needs_input", True)
