"""The meaning of an answer's bytes, read from pieces that end anywhere."""

import logging
from enum import Enum

from pydantic_core import from_json

from messages import Chunk
from protocols.base import Protocol, error_message

MAX_EVENT_BYTES = 64 * 2**20
"""The longest line, or whole document, that is read."""

MAX_EARLY_BYTES = 2**28
"""How much of an event is read, again and again, before its line end has arrived: a client may
take the answer for complete by then."""

diagnostics = logging.getLogger("minivault")


class Framing(Enum):
    """How the events of an answer are separated."""

    LINES = "application/x-ndjson"
    EVENTS = "text/event-stream"
    DOCUMENT = "application/json"

    @classmethod
    def of(cls, content_type: str) -> "Framing":
        """Return the framing of a `Content-Type`, one document unless it is one of the streams."""
        name = content_type.partition(";")[0].strip().lower()
        return next((framing for framing in cls if framing.value == name), cls.DOCUMENT)


class AnswerReader:
    """Reads an answer's bytes as they pass. The chunk that `feed` returns holds these bytes and
    what they mean; after `done` or `error` nothing more is read.

    A strict reader fails at what is not of the protocol, any other skips it.
    """

    def __init__(
        self,
        protocol: Protocol,
        framing: Framing,
        *,
        server: str = "Ollama",
        status: int = 200,
        strict: bool = False,
    ) -> None:
        """`server` is the name of what answers, for messages."""
        self._protocol = protocol
        self._framing = framing
        self._server = server
        self._status = status
        self._strict = strict
        self._ended = False
        self._partial: list[bytes] = []
        self._partial_bytes = 0
        self._early_bytes = 0

    def feed(self, data: bytes) -> Chunk:
        """Return the data with the meaning of the events that it completes."""
        chunk = Chunk(wire=data)
        if self._ended:
            return chunk
        lines = [data] if self._framing is Framing.DOCUMENT else data.split(b"\n")
        if self._partial and len(lines) > 1:
            lines[0] = b"".join([*self._partial, lines[0]])
            self._clear_partial()
        rest = lines.pop()
        for line in lines:
            if line:
                self._read_line(line, chunk)
                if self._ended:
                    return chunk
        if rest:
            self._partial.append(rest)
            self._partial_bytes += len(rest)
            if self._partial_bytes > MAX_EVENT_BYTES:
                self._fail(chunk, f"an event of its answer has more than {MAX_EVENT_BYTES} bytes")
            elif rest.rstrip()[-1:] in (b"}", b"]"):
                self._read_early(chunk)
        return chunk

    def end(self) -> Chunk:
        """Return the meaning of the end of the bytes: an error unless the answer is complete."""
        chunk = Chunk()
        if not self._ended:
            rest = b"".join(self._partial)
            self._read_line(rest, chunk)
            if not self._ended and self._status >= 400:
                self._fail(chunk, rest[:200].decode(errors="replace") or "no reason given")
            elif not self._ended:
                chunk.error = f"{self._server} broke off before the end of its answer"
        return chunk

    def _clear_partial(self) -> None:
        self._partial = []
        self._partial_bytes = self._early_bytes = 0

    def _read_early(self, chunk: Chunk) -> None:
        self._early_bytes += self._partial_bytes
        if self._early_bytes <= MAX_EARLY_BYTES and self._read_line(
            b"".join(self._partial), chunk, early=True
        ):
            self._clear_partial()

    def _read_line(self, line: bytes, chunk: Chunk, *, early: bool = False) -> bool:
        """Update the chunk with what the line means; return whether it could be read."""
        data = line
        if self._framing is Framing.EVENTS:
            if not line.startswith(b"data:"):
                return False
            data = line[5:]
        try:
            event = from_json(data, cache_strings="keys")
            if not isinstance(event, dict) or self._strict and not self._protocol.is_event(event):
                raise ValueError
        except ValueError:
            return self._read_other(data.strip(), chunk, early)
        try:
            streamed = self._framing is not Framing.DOCUMENT
            self._protocol.read_event(event, chunk, streamed=streamed)
        except Exception:  # a bug of ours must not reach a client who only waits for the bytes
            diagnostics.exception("an event of an answer could not be read")
        if chunk.error or self._status >= 400:
            message = chunk.error or error_message(event.get("error")) or str(event)[:200]
            self._fail(chunk, message)
        if chunk.done:
            self._ended = True
        return True

    def _read_other(self, data: bytes, chunk: Chunk, early: bool) -> bool:
        """Update the chunk with what a line that is no event means, as above."""
        if data == self._protocol.last_data:
            chunk.done = self._ended = True
            return True
        if self._strict and data and not early:
            beginning = data[:200].decode(errors="replace")
            self._fail(chunk, f"its answer does not follow its protocol: {beginning}")
        return False

    def _fail(self, chunk: Chunk, message: str) -> None:
        self._ended = True
        failed = f"answered {self._status}" if self._status >= 400 else "failed"
        chunk.error = f"{self._server} {failed}: {message}"
