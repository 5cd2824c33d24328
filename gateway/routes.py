"""The gateway: Ollama's own HTTP interfaces, passed on unchanged and recorded.

A tee: the bytes of an answer go to the client as they came and when they came, and a reader makes
of the same bytes what the recorder keeps. The one exception is the recorder's: the piece that makes
an answer whole goes on when the log has its entry.

What has no meaning here passes all the same. What would change models or the account does not.
"""

import asyncio
import gzip
import io
import sys
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic_core import from_json, to_json
from starlette.types import Message

from web.docs import passed_on
from messages import Asked, Chunk
from formats import AnswerStream, Format
from web.keys import KeyedRoute
from llm_services import BrokenAnswerError, OllamaLLMService, ServiceLoopError
from log.entry import LogEntry
from upstream.reader import AnswerReader, Framing
from protocols.base import PROTOCOLS, Protocol, refusal
from recorder import Recording, recording

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LARGE_BYTES = 2**16
"""From here on a request is read for the record in a thread: 10 MiB take some 10 ms."""

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
"""What concerns one connection only (RFC 9110 §7.6.1, RFC 9112 §C.2.2)."""

PASSED_ON = {
    "GET": ("/api/version", "/api/tags", "/api/ps", "/v1/models", "/v1/models/{model:path}"),
    "POST": (
        "/api/show",
        "/api/embed",
        "/api/embeddings",
        "/v1/embeddings",
        "/v1/messages/count_tokens",
    ),
}
UNPACKERS: dict[str, Callable[[io.BytesIO], Any]] = {
    "gzip": gzip.open,
    "x-gzip": gzip.open,
    "zstd": zstd.open,
}
UNPACK_ERRORS = (EOFError, OSError, zlib.error, zstd.ZstdError)

router = APIRouter(route_class=KeyedRoute, tags=["Ollama's own interfaces, passed on unchanged"])


def ollama_behind(request: Request) -> OllamaLLMService:
    """Return the service that requests are passed on to.

    Raises:
        HTTPException: 503, there is no Ollama behind the gateway.
        ServiceLoopError: the request comes from this service itself.
    """
    service = request.state.service
    if not isinstance(service, OllamaLLMService):
        raise HTTPException(
            503, "no Ollama is behind the stub; start with MINIVAULT_LLM_SERVICE=ollama"
        )
    if service.via in ", ".join(request.headers.getlist("via")):
        raise ServiceLoopError(
            "MiniVault is in front of itself: MINIVAULT_OLLAMA_BASE_URL leads back here"
        )
    return service


def end_to_end(
    headers: Iterable[tuple[bytes, bytes]], *left_out: bytes
) -> list[tuple[bytes, bytes]]:
    """Return the headers that go on to the next hop, without those named here."""
    headers = list(headers)
    named = b",".join(value for name, value in headers if name.lower() == b"connection")
    dropped = HOP_BY_HOP | {name.strip().lower() for name in named.split(b",")} | {*left_out}
    return [(name, value) for name, value in headers if name.lower() not in dropped]


class Passage:
    """One request on its way to Ollama, and the answer on its way back."""

    def __init__(self, request: Request, body: bytes, protocol: Protocol | None) -> None:
        """With a protocol, read along what passes."""
        self._service = ollama_behind(request)
        self._method = request.method
        path = request.scope["raw_path"].removeprefix(request.scope["root_path"].encode())
        query = request.scope["query_string"]
        self._target = path + b"?" * bool(query) + query
        keys = (b"authorization", b"x-api-key") if request.app.state.settings.api_key else ()
        # Accept-Encoding stays: what is packed cannot be read along; the others are made anew
        hop = (b"host", b"content-length", b"accept-encoding", b"expect", *keys)
        self._headers = end_to_end(request.headers.raw, *hop)
        self._body = body
        self._protocol = protocol
        self.framing = Framing.DOCUMENT
        self.takes_more = False
        """Whether something can be said behind what has come."""
        self.head: Message = {"type": "http.response.start"}

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Yield the answer as it comes; its `head` is there with the first chunk.

        Raises:
            LLMServiceError: Ollama is out of reach, too late, or broke off.
        """
        async with self._service.ask(
            self._method, self._target, self._headers, self._body
        ) as answer:
            self.head["status"] = answer.status
            ours = (b"date", b"x-request-id")
            self.head["headers"] = end_to_end(answer.raw_headers, *ours)
            if answer.status < 400:
                self.framing = Framing.of(answer.headers.get("content-type", ""))
            self.takes_more = self.framing is not Framing.DOCUMENT and not answer.has_length
            if self._protocol is None:
                passing = answer.pieces()
            else:
                reader = AnswerReader(self._protocol, self.framing, status=answer.status)
                passing = answer.chunks(reader)
            async with aclosing(passing):
                async for chunk in passing:
                    yield chunk


class Unchanged(Format):
    """The bytes as they came."""

    finishes_failed = False

    def __init__(self, passage: Passage, path: str) -> None:
        self._passage = passage
        self._path = path
        self._last = b"\n"

    def chunk(self, chunk: Chunk) -> bytes:
        self._last = chunk.wire or self._last
        return chunk.wire

    def done(self, entry: LogEntry | None) -> bytes:
        return b""

    def failure(self, exc: Exception) -> bytes:
        """Say what MiniVault itself refuses; an answer that Ollama broke off just breaks off."""
        if isinstance(exc, BrokenAnswerError) or not self._passage.takes_more:
            return b""
        said = to_json(refusal(self._path, 502, str(exc)))
        torn = b"" if self._last.endswith(b"\n") else b"\n"
        if self._passage.framing is Framing.LINES:
            return torn + said + b"\n"
        name = b"" if "completions" in self._path else b"event: error\n"
        return torn * 2 + name + b"data: " + said + b"\n\n"


class PassedAnswer(AnswerStream):
    """Sends Ollama's answer as it comes, head and all."""

    def __init__(self, request: Request, passage: Passage, recording: Recording) -> None:
        super().__init__(
            recording, request.state.client, Unchanged(passage, request.scope["route"].path)
        )
        self._passage = passage
        request.state.is_passed_on = True

    def head(self) -> Message:
        return self._passage.head


def unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """Return a request's body without its `Content-Encoding`.

    Raises:
        ValueError: it is not packed in this way, or unpacks to more bytes than the limit.
    """
    if encoding not in UNPACKERS:
        return body
    try:
        content: bytes = UNPACKERS[encoding](io.BytesIO(body)).read(limit + 1)
    except UNPACK_ERRORS as exc:
        raise ValueError(f"a body that is not {encoding}: {exc}") from exc
    if len(content) > limit:
        raise ValueError(f"a body of {len(body)} bytes in {encoding}, more than {limit} unpacked")
    return content


def read_request(body: bytes, encoding: str, limit: int, protocol: Protocol) -> Asked:
    """Return what a request asks, as far as it can be read; whatever it is, it is kept."""
    try:
        content = unpacked(body, encoding, limit)
    except ValueError as exc:
        return Asked(request=f"({exc})")
    try:
        given = from_json(content, allow_inf_nan=False, cache_strings="none")
    except ValueError:
        return Asked(request=content.decode(errors="replace"))
    asked = protocol.asked(given) if isinstance(given, dict) else Asked()
    return replace(asked, request=content)


async def whole_body(request: Request) -> bytes:
    """Return a request's body; a large one is put together in a thread, out of everybody's way."""
    pieces = [piece async for piece in request.stream()]
    if sum(map(len, pieces)) < LARGE_BYTES:
        return b"".join(pieces)
    return await asyncio.to_thread(b"".join, pieces)


async def open_passage(request: Request) -> AsyncIterator[PassedAnswer]:
    """Pass a request on and record it; after the response end what is left of it."""
    protocol = PROTOCOLS[request.scope["route"].path]
    body = await whole_body(request)
    passage = Passage(request, body, protocol)
    encoding = request.headers.get("content-encoding", "").strip().lower()
    reading = (body, encoding, request.app.state.settings.max_body_bytes, protocol)
    if encoding or len(body) >= LARGE_BYTES:
        asked = await asyncio.to_thread(read_request, *reading)
    else:
        asked = read_request(*reading)
    async with recording(request, asked, passage.chunks()) as current:
        yield PassedAnswer(request, passage, current)


async def record(answer: Annotated[PassedAnswer, Depends(open_passage)]) -> Response:
    """Ollama's own, passed on unchanged; the answer is in the log when it is whole."""
    return answer


async def pass_on(request: Request) -> Response:
    """Ollama's own, passed on unchanged."""
    if {".", ".."} & {*request.url.path.split("/")}:
        return await refuse_to_pass(request)  # on the way it would become another path
    passage = Passage(request, await whole_body(request), None)
    return PassedAnswer(request, passage, Recording(None, passage.chunks()))


async def refuse_to_pass(request: Request) -> Response:
    """Refuse what would change models or the account."""
    service = ollama_behind(request)
    raise HTTPException(
        403,
        f"{request.method} {request.url.path} is not passed on: do that at Ollama itself, "
        f"{service.url}",
    )


SUMMARIES = {
    "/api/generate": "Answer a prompt",
    "/api/chat": "Answer a conversation",
    "/v1/chat/completions": "Answer a conversation",
    "/v1/completions": "Answer a prompt",
    "/v1/responses": "Answer a prompt or a conversation",
    "/v1/messages": "Answer a conversation",
    "/api/version": "Say which Ollama it is",
    "/api/tags": "List the models",
    "/api/ps": "List the models that are loaded",
    "/v1/models": "List the models",
    "/v1/models/{model:path}": "Describe a model",
    "/api/show": "Describe a model",
    "/api/embed": "Make embeddings",
    "/api/embeddings": "Make an embedding",
    "/v1/embeddings": "Make embeddings",
    "/v1/messages/count_tokens": "Count the tokens of a conversation",
}
for path in PROTOCOLS:
    said = passed_on(path, SUMMARIES[path], has_body=True)
    router.add_api_route(path, record, methods=["POST"], response_class=Response, **said)
for method, paths in PASSED_ON.items():
    for path in paths:
        said = passed_on(path, SUMMARIES[path], has_body=method == "POST")
        router.add_api_route(path, pass_on, methods=[method], response_class=Response, **said)
        if method == "GET":
            router.add_api_route(path, pass_on, methods=["HEAD"], include_in_schema=False)
for path in ("/api/{path:path}", "/v1/{path:path}"):
    router.add_api_route(path, pass_on, methods=["OPTIONS"], include_in_schema=False)
    others = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    router.add_api_route(path, refuse_to_pass, methods=others, include_in_schema=False)
