"""Forwarding: a request on its way to Ollama and its answer on the way back, both unchanged."""

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing

import aiohttp
from fastapi import HTTPException
from pydantic_core import to_json
from starlette.types import Message

from formats import AnswerStream, Format
from gateway.usage import PATHS as USAGE_PATHS
from gateway.usage import UsageFilter
from llm_services import BrokenAnswerError, HTTPService, ServiceLoopError
from log.entry import LogEntry
from messages import Chunk, LoggedRequest
from protocols.base import Protocol
from recorder import Recording
from upstream.reader import AnswerReader, Framing
from web.state import Request

HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
"""Headers of one connection only (RFC 9110 §7.6.1, RFC 9112 §C.2.2)."""


def find_ollama(request: Request) -> HTTPService:
    """Return the service that requests are forwarded to.

    Raises:
        HTTPException: 503, the service is not Ollama.
        ServiceLoopError: the request comes from this service itself.
    """
    service = request.state["service"]
    if not service.is_ollama:
        raise HTTPException(
            503,
            f"MINIVAULT_LLM_SERVICE={service.llm_type} has no Ollama behind it; set "
            "MINIVAULT_LLM_SERVICE=ollama",
        )
    assert isinstance(service, HTTPService)
    if service.via in ", ".join(request.headers.getlist("via")):
        raise ServiceLoopError(
            "MiniVault is in front of itself: MINIVAULT_OLLAMA_BASE_URL leads back here"
        )
    return service


def end_to_end_headers(
    headers: Iterable[tuple[bytes, bytes]], *removed: bytes
) -> list[tuple[bytes, bytes]]:
    """Return the headers for the next hop, without those named here."""
    headers = list(headers)
    named = b",".join(value for name, value in headers if name.lower() == b"connection")
    dropped = HOP_BY_HOP | {name.strip().lower() for name in named.split(b",")} | {*removed}
    return [(name, value) for name, value in headers if name.lower() not in dropped]


class Forward:
    """One forwarded request and its answer."""

    def __init__(self, request: Request, body: bytes, protocol: Protocol | None) -> None:
        """With a protocol, the answer is read while it passes."""
        self.streamed: bool | None = False
        """Whether the client asked for a stream: only a stream has time limits."""
        self._service = find_ollama(request)
        self._method = request.method
        self._path = request.scope["route"].path
        path = request.scope["raw_path"].removeprefix(request.scope["root_path"].encode())
        query = request.scope["query_string"]
        self._target = path + b"?" * bool(query) + query
        keys = (b"authorization", b"x-api-key") if request.state["settings"].api_key else ()
        # without Accept-Encoding: a compressed answer cannot be read; the others are made anew
        hop = (b"host", b"content-length", b"accept-encoding", b"expect", *keys)
        self._headers = end_to_end_headers(request.headers.raw, *hop)
        self._body = body
        self._protocol = protocol
        self._reader: AnswerReader | None = None
        self._usage: UsageFilter | None = None
        self._has_length = False
        self.head: Message = {"type": "http.response.start"}

    def prepare(self, logged: LoggedRequest, *, counts_tokens: bool) -> None:
        """Take from what was read of the request how it is to be forwarded."""
        self.streamed = logged.streamed
        asked = logged.counted_body
        if counts_tokens and asked and asked != self._body and self._path in USAGE_PATHS:
            self._body, self._usage = asked, UsageFilter()

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Yield the answer as it arrives; `head` is complete with the first chunk.

        Raises:
            LLMServiceError: Ollama is unreachable, too late, or broke off.
        """
        async with self._service.request(
            self._method,
            self._target,
            self._headers,
            self._body,
            has_limits=self.streamed is not False,
        ) as answer:
            self.head["status"] = answer.status
            framing = Framing.of(answer.headers.get("content-type", ""))
            framing = framing if answer.status < 400 else Framing.DOCUMENT
            if answer.has_length and framing is not Framing.EVENTS:
                self._usage = None
            # what is left out would change the length
            length = (b"content-length",) if self._usage else ()
            headers = end_to_end_headers(answer.raw_headers, b"date", b"x-request-id", *length)
            if framing is not Framing.DOCUMENT and not answer.has_length:
                headers.append((b"X-Accel-Buffering", b"no"))
            self.head["headers"] = headers
            self._has_length = answer.has_length
            if self._protocol is None:
                chunks = answer.unread_chunks()
            else:
                self._reader = AnswerReader(
                    self._protocol,
                    framing,
                    status=answer.status,
                    streamed=self.streamed is not False,
                )
                chunks = answer.read_chunks(self._reader)
            async with aclosing(self._without_usage(chunks) if self._usage else chunks) as passed:
                async for chunk in passed:
                    yield chunk

    async def _without_usage(
        self, chunks: AsyncGenerator[Chunk, None]
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks without the usage that the client did not ask for."""
        assert self._usage and self._reader
        async with aclosing(chunks):
            try:
                async for chunk in chunks:
                    if self._reader.framing is Framing.EVENTS:
                        chunk.wire = self._usage.feed(chunk.wire)
                    yield chunk
            except (TimeoutError, aiohttp.ClientError):
                yield Chunk(wire=self._usage.end())
                raise
            yield Chunk(wire=self._usage.end())

    @property
    def framing(self) -> Framing:
        """How the events of the answer are separated, as far as an error can follow them."""
        if self._reader is None or self._has_length:
            return Framing.DOCUMENT
        return self._reader.framing or Framing.DOCUMENT


class ForwardedFormat(Format):
    """The bytes as they arrived, and errors in the words of their protocol."""

    finishes_failed = False

    def __init__(
        self, forward: Forward, protocol: Protocol | None, status_of: Callable[[Exception], int]
    ) -> None:
        self._forward = forward
        self._protocol = protocol
        self._status_of = status_of
        self._last = b"\n"

    def encode_chunk(self, chunk: Chunk) -> bytes:
        self._last = chunk.wire or self._last
        return chunk.wire

    def encode_end(self, entry: LogEntry | None) -> bytes:
        return b""

    def encode_error(self, exc: Exception) -> bytes:
        """Return MiniVault's own error; an answer that Ollama broke off just breaks off."""
        framing = self._forward.framing
        if isinstance(exc, BrokenAnswerError) or framing is Framing.DOCUMENT:
            return b""
        assert self._protocol, "only what is read is a stream"
        data = to_json(self._protocol.error_body(self._status_of(exc), str(exc)))
        line_end = b"" if self._last.endswith(b"\n") else b"\n"
        if framing is Framing.LINES:
            return line_end + data + b"\n"
        name = self._protocol.error_event
        event = b"event: %b\n" % name.encode() if name else b""
        return line_end * 2 + event + b"data: " + data + b"\n\n"


class ForwardedAnswer(AnswerStream):
    """Sends Ollama's answer as it arrives, with Ollama's own head."""

    def __init__(
        self,
        request: Request,
        forward: Forward,
        protocol: Protocol | None = None,
        recording: Recording | None = None,
    ) -> None:
        chunks = recording.chunks if recording else forward.chunks()
        format = ForwardedFormat(forward, protocol, request.state["status_of"])
        super().__init__(chunks, request.state["client"], format, recording=recording)
        self._forward = forward
        self._state = request.scope["state"]

    def head(self) -> Message:
        self._state["is_forwarded"] = True
        return self._forward.head
