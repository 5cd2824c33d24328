"""How an answer is sent: the formats of `/stream`, the choice among them, and the response."""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection
from typing import ClassVar

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from llm_services import LLMServiceError
from log.entry import LogEntry, escape_line_ends
from logger import LogUnavailableError
from messages import Chunk
from recorder import Recording
from web.client import Client

diagnostics = logging.getLogger("minivault")

QUALITY = re.compile(r";\s*q\s*=\s*([\d.]+)")


class Format(ABC):
    """The bytes of an answer."""

    media_types: ClassVar[tuple[str, ...]] = ()
    finishes_failed: ClassVar[bool]
    """Whether the body of a failed answer is finished; if not, the connection is aborted."""

    @abstractmethod
    def encode_chunk(self, chunk: Chunk) -> bytes:
        """Return a chunk's bytes; none where the format leaves it out."""

    @abstractmethod
    def encode_end(self, entry: LogEntry | None) -> bytes:
        """Return the bytes that end a complete answer, with its entry if it is recorded."""

    @abstractmethod
    def encode_error(self, exc: Exception) -> bytes:
        """Return the bytes that end a failed answer."""


class PlainText(Format):
    """The text itself."""

    media_types = ("text/plain",)
    finishes_failed = False

    def encode_chunk(self, chunk: Chunk) -> bytes:
        return "".join(chunk.response).encode()

    def encode_end(self, entry: LogEntry | None) -> bytes:
        return b""

    def encode_error(self, exc: Exception) -> bytes:
        return b""


class JsonFormat(Format):
    """JSON objects, one for a chunk's thinking and one for its text; a subclass frames them."""

    finishes_failed = True

    @abstractmethod
    def encode_object(self, data: dict[str, object]) -> bytes:
        """Return an object's bytes."""

    def encode_chunk(self, chunk: Chunk) -> bytes:
        encoded = b""
        if chunk.thinking:
            encoded = self.encode_object({"thinking": "".join(chunk.thinking)})
        if chunk.response:
            encoded += self.encode_object({"response": "".join(chunk.response)})
        return encoded

    @staticmethod
    def summary(entry: LogEntry | None) -> dict[str, object]:
        """Return what the last object of a complete answer says."""
        assert entry
        return {
            "id": entry.id,
            "model": entry.model,
            "status": entry.status,
            "prompt_tokens": entry.prompt_tokens,
            "response_tokens": entry.response_tokens,
            "duration_ms": entry.duration_ms,
        }


class ServerSentEvents(JsonFormat):
    """Server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html."""

    media_types = ("text/event-stream",)

    def encode_object(self, data: dict[str, object]) -> bytes:
        return b"data: " + escape_line_ends(to_json(data)) + b"\n\n"

    def encode_end(self, entry: LogEntry | None) -> bytes:
        return b"event: done\n" + self.encode_object(self.summary(entry))

    def encode_error(self, exc: Exception) -> bytes:
        return b"event: error\n" + self.encode_object({"detail": str(exc)})


class NewlineDelimitedJson(JsonFormat):
    """One JSON object a line."""

    media_types = ("application/x-ndjson", "application/jsonl")

    def encode_object(self, data: dict[str, object]) -> bytes:
        return escape_line_ends(to_json(data)) + b"\n"

    def encode_end(self, entry: LogEntry | None) -> bytes:
        return self.encode_object({**self.summary(entry), "done": True})

    def encode_error(self, exc: Exception) -> bytes:
        return self.encode_object({"error": str(exc)})


FORMATS: dict[str, Format] = {
    media_type: format
    for format in (PlainText(), ServerSentEvents(), NewlineDelimitedJson())
    for media_type in format.media_types
}


def prefer(accept: str, offered: Collection[str], default: str) -> str:
    """Return which of the offered media types an `Accept` header prefers.

    The default stands for `*/*`, for ranges of its kind, and for what is not offered.
    """
    best, best_quality = default, 0.0
    ranges = ("*/*", default.partition("/")[0] + "/*")
    for media_range in accept.lower().split(","):
        name = media_range.partition(";")[0].strip()
        name = default if name in ranges else name
        match = QUALITY.search(media_range)
        try:
            quality = float(match[1]) if match else 1.0
        except ValueError:
            quality = 0.0
        if name in offered and quality > best_quality:
            best, best_quality = name, quality
    return best


def negotiate(accept: str) -> tuple[str, Format]:
    """Return the media type that an `Accept` header prefers, and its format; plain text if none."""
    media_type = prefer(accept, FORMATS, "text/plain")
    return media_type, FORMATS[media_type]


class AnswerStream(Response):
    """Sends an answer as it arrives; the head is sent with the first byte.

    So a failure before that has a status of its own, from the app's table. A later one ends the
    body in the format's way; in plain text the body stays unfinished, and uvicorn then closes the
    connection.
    """

    def __init__(
        self,
        chunks: AsyncIterator[Chunk],
        client: Client,
        format: Format,
        media_type: str | None = None,
        *,
        recording: Recording | None = None,
    ) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(media_type=media_type, headers=headers)
        del self.headers["Content-Length"]
        self._chunks = chunks
        self._client = client
        self._format = format
        self._recording = recording

    def head(self) -> Message:
        """Return the message that begins the response."""
        return {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = self._send(send, scope["state"]["request_id"])
        await self._client.run_while_connected(receive, work)

    async def _send(self, send: Send, request_id: str) -> None:
        started = False
        try:
            async for chunk in self._chunks:
                if body := self._format.encode_chunk(chunk):
                    if not started:
                        await send(self.head())
                        started = True
                    await self._client.send_piece(body)
            entry = self._recording.entry if self._recording else None
            end, is_complete = self._format.encode_end(entry), True
        except (LLMServiceError, LogUnavailableError) as exc:
            if not started:
                raise
            diagnostics.warning("request %s broke off: %s", request_id, type(exc).__name__)
            end, is_complete = self._format.encode_error(exc), self._format.finishes_failed
        if not started:
            await send(self.head())
        if end or is_complete:
            message = {"type": "http.response.body", "body": end, "more_body": not is_complete}
            await send(message)
