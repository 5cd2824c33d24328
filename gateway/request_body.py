"""The body of a forwarded request: how it arrives, and what the log keeps of it."""

import asyncio
import gzip
import io
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic_core import from_json

from messages import LoggedRequest
from protocols.base import Protocol
from protocols.json_reading import parse_leniently
from web.state import Request

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LARGE_BYTES = 2**16
"""A body of this size or more is read in a thread: 10 MiB take some 10 ms."""

DECOMPRESSORS: dict[str, Callable[[io.BytesIO], Any]] = {
    "gzip": gzip.open,
    "x-gzip": gzip.open,
    "zstd": zstd.open,
}
DECOMPRESSION_ERRORS = (EOFError, OSError, zlib.error, zstd.ZstdError)


async def collect_body(request: Request) -> bytes:
    """Return a request's body; a large one is joined in a thread, not on the event loop."""
    pieces = [piece async for piece in request.stream()]
    if sum(map(len, pieces)) < LARGE_BYTES:
        return b"".join(pieces)
    return await asyncio.to_thread(b"".join, pieces)


async def read_request(request: Request, body: bytes, protocol: Protocol) -> LoggedRequest:
    """Return what the log keeps of a request, as far as its body can be read."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    arguments = (body, encoding, request.state["settings"].max_body_bytes, protocol)
    if encoding or len(body) >= LARGE_BYTES:
        return await asyncio.to_thread(parse_body, *arguments)
    return parse_body(*arguments)


def parse_body(body: bytes, encoding: str, limit: int, protocol: Protocol) -> LoggedRequest:
    """Return what the log keeps of a body; whatever it is, it is kept."""
    try:
        content = decompress(body, encoding, limit)
    except ValueError as exc:
        return LoggedRequest(body=f"({exc})")
    try:
        parsed = from_json(content, allow_inf_nan=False, cache_strings="none")
        kept: bytes | str = content
    except ValueError:
        kept = content.decode(errors="replace")  # not as the JSON that it nearly is
        try:
            parsed = parse_leniently(content, first_only=True)
        except ValueError:
            parsed = None
    request = protocol.read_request(parsed) if isinstance(parsed, dict) else LoggedRequest()
    return replace(request, body=kept)


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Return a body without its `Content-Encoding`.

    Raises:
        ValueError: it is not encoded in this way, or has more bytes than the limit.
    """
    if encoding not in DECOMPRESSORS:
        return body
    try:
        content: bytes = DECOMPRESSORS[encoding](io.BytesIO(body)).read(limit + 1)
    except DECOMPRESSION_ERRORS as exc:
        raise ValueError(f"a body that is not {encoding}: {exc}") from exc
    if len(content) > limit:
        raise ValueError(
            f"a body of {len(body)} bytes in {encoding}, more than {limit} decompressed"
        )
    return content
