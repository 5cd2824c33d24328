"""The three formats of `/stream`, the choice among them by `Accept`, and the response itself."""

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from typing import ClassVar

from pydantic_core import to_json
from starlette.responses import StreamingResponse
from starlette.types import Send

from exchange import Chunk
from llm_services import LLMServiceError
from logger import LogEntry, LogUnavailableError
from recorder import Recorder

QUALITY = re.compile(r";\s*q\s*=\s*([\d.]+)")


class Format(ABC):
    """How an answer's pieces look on the wire."""

    media_types: ClassVar[tuple[str, ...]]

    @abstractmethod
    def chunk(self, chunk: Chunk) -> bytes:
        """Return a chunk's bytes; none where the format leaves it out."""

    @abstractmethod
    def done(self, entry: LogEntry) -> bytes:
        """Return the bytes that end a whole answer."""

    @abstractmethod
    def failure(self, detail: str) -> bytes | None:
        """Return the bytes that end a broken answer, None where only a broken connection does."""


class PlainText(Format):
    """The text itself."""

    media_types = ("text/plain",)

    def chunk(self, chunk: Chunk) -> bytes:
        return chunk.response.encode()

    def done(self, entry: LogEntry) -> bytes:
        return b""

    def failure(self, detail: str) -> None:
        return None


class JsonFormat(Format):
    """JSON objects, one for a chunk's thinking and one for its text, each framed in its way."""

    @abstractmethod
    def frame(self, data: dict[str, object]) -> bytes:
        """Return an object's bytes."""

    def chunk(self, chunk: Chunk) -> bytes:
        frames = self.frame({"thinking": chunk.thinking}) if chunk.thinking else b""
        if chunk.response:
            frames += self.frame({"response": chunk.response})
        return frames

    @staticmethod
    def summary(entry: LogEntry) -> dict[str, object]:
        """Return what a client is told of a whole answer."""
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
        return b"data: " + to_json(data) + b"\n\n"

    def done(self, entry: LogEntry) -> bytes:
        return b"event: done\n" + self.frame(self.summary(entry))

    def failure(self, detail: str) -> bytes:
        return b"event: error\n" + self.frame({"detail": detail})


class NewlineDelimitedJson(JsonFormat):
    """One JSON object a line."""

    media_types = ("application/x-ndjson", "application/jsonl")

    def frame(self, data: dict[str, object]) -> bytes:
        return to_json(data) + b"\n"

    def done(self, entry: LogEntry) -> bytes:
        return self.frame({**self.summary(entry), "done": True})

    def failure(self, detail: str) -> bytes:
        return self.frame({"error": detail})


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


class AnswerStream(StreamingResponse):
    """Sends chunks as they come; its head leaves with the first byte.

    So a failure before it has a status code of its own, from the app's table. One that comes
    later ends the body in the format's way; in plain text by leaving the body unfinished, which
    makes uvicorn close the connection.
    """

    def __init__(
        self, chunks: AsyncGenerator[Chunk, None], recorder: Recorder, accept: str
    ) -> None:
        media_type, self._format = negotiate(accept)
        self._chunks = chunks
        self._recorder = recorder
        super().__init__(
            chunks,
            media_type=media_type,
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def stream_response(self, send: Send) -> None:
        head = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        started = False
        try:
            async for chunk in self._chunks:
                body = self._format.chunk(chunk)
                if not body:
                    continue
                if not started:
                    await send(head)
                    started = True
                await send({"type": "http.response.body", "body": body, "more_body": True})
            assert self._recorder.entry is not None
            end = self._format.done(self._recorder.entry)
        except (LLMServiceError, LogUnavailableError) as exc:
            if not started:
                raise
            if (failure := self._format.failure(str(exc))) is None:
                return
            end = failure
        if not started:
            await send(head)
        await send({"type": "http.response.body", "body": end, "more_body": False})
