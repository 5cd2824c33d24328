"""How an answer leaves: the formats of `/stream`, the choice among them, and the response."""

import logging
import re
from abc import ABC, abstractmethod
from typing import ClassVar

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from web.client import Client
from messages import Chunk
from llm_services import LLMServiceError
from log.entry import LogEntry, one_line
from logger import LogUnavailableError
from recorder import Recording

diagnostics = logging.getLogger("uvicorn.error")

QUALITY = re.compile(r";\s*q\s*=\s*([\d.]+)")


class Format(ABC):
    """How an answer's pieces look on the wire."""

    media_types: ClassVar[tuple[str, ...]] = ()
    finishes_failed: ClassVar[bool]
    """Whether the body of a failed answer is finished; else the connection is broken."""

    @abstractmethod
    def chunk(self, chunk: Chunk) -> bytes:
        """Return a chunk's bytes; none where the format leaves it out."""

    @abstractmethod
    def done(self, entry: LogEntry | None) -> bytes:
        """Return the bytes that end a whole answer, whose entry is there where one is kept."""

    @abstractmethod
    def failure(self, exc: Exception) -> bytes:
        """Return the bytes that end an answer that failed."""


class PlainText(Format):
    """The text itself."""

    media_types = ("text/plain",)
    finishes_failed = False

    def chunk(self, chunk: Chunk) -> bytes:
        return "".join(chunk.response).encode()

    def done(self, entry: LogEntry | None) -> bytes:
        return b""

    def failure(self, exc: Exception) -> bytes:
        return b""


class JsonFormat(Format):
    """JSON objects, one for a chunk's thinking and one for its text, each framed in its way."""

    finishes_failed = True

    @abstractmethod
    def frame(self, data: dict[str, object]) -> bytes:
        """Return an object's bytes."""

    def chunk(self, chunk: Chunk) -> bytes:
        frames = self.frame({"thinking": "".join(chunk.thinking)}) if chunk.thinking else b""
        if chunk.response:
            frames += self.frame({"response": "".join(chunk.response)})
        return frames

    @staticmethod
    def summary(entry: LogEntry | None) -> dict[str, object]:
        """Return what a client is told of a whole answer."""
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

    def frame(self, data: dict[str, object]) -> bytes:
        return b"data: " + one_line(to_json(data)) + b"\n\n"

    def done(self, entry: LogEntry | None) -> bytes:
        return b"event: done\n" + self.frame(self.summary(entry))

    def failure(self, exc: Exception) -> bytes:
        return b"event: error\n" + self.frame({"detail": str(exc)})


class NewlineDelimitedJson(JsonFormat):
    """One JSON object a line."""

    media_types = ("application/x-ndjson", "application/jsonl")

    def frame(self, data: dict[str, object]) -> bytes:
        return one_line(to_json(data)) + b"\n"

    def done(self, entry: LogEntry | None) -> bytes:
        return self.frame({**self.summary(entry), "done": True})

    def failure(self, exc: Exception) -> bytes:
        return self.frame({"error": str(exc)})


PLAIN = PlainText()
FORMATS: dict[str, Format] = {
    media_type: format
    for format in (PLAIN, ServerSentEvents(), NewlineDelimitedJson())
    for media_type in format.media_types
}


def negotiate(accept: str) -> tuple[str, Format]:
    """Return the media type that an `Accept` header likes best, and its format; or plain text."""
    best, best_quality = "text/plain", 0.0
    for media_range in accept.lower().split(","):
        name = media_range.partition(";")[0].strip()
        name = "text/plain" if name in ("*/*", "text/*") else name
        match = QUALITY.search(media_range)
        try:
            quality = float(match[1]) if match else 1.0
        except ValueError:
            quality = 0.0
        if name in FORMATS and quality > best_quality:
            best, best_quality = name, quality
    return best, FORMATS[best]


class AnswerStream(Response):
    """Sends an answer as it comes; the head leaves with the first byte.

    So a failure before it has a status code of its own, from the app's table. One that comes
    later ends the body in the format's way; in plain text by leaving the body unfinished, which
    makes uvicorn close the connection.
    """

    def __init__(
        self, recording: Recording, client: Client, format: Format, media_type: str | None = None
    ) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(media_type=media_type, headers=headers)
        del self.headers["Content-Length"]
        self._recording = recording
        self._client = client
        self._format = format

    def head(self) -> Message:
        """Return the message that begins the response."""
        return {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = self._send(send, scope["state"]["request_id"])
        await self._client.while_present(receive, work)

    async def _send(self, send: Send, request_id: str) -> None:
        started = False
        try:
            async for chunk in self._recording.chunks:
                if body := self._format.chunk(chunk):
                    if not started:
                        await send(self.head())
                        started = True
                    await self._client.send_piece(body)
            end, is_whole = self._format.done(self._recording.entry), True
        except (LLMServiceError, LogUnavailableError) as exc:
            if not started:
                raise
            diagnostics.warning("request %s broke off, %s", request_id, type(exc).__name__)
            end, is_whole = self._format.failure(exc), self._format.finishes_failed
        if not started:
            await send(self.head())
        if end or is_whole:
            await send({"type": "http.response.body", "body": end, "more_body": not is_whole})
