"""The meaning of an answer's bytes, read from pieces that end anywhere.

A client can take an answer for complete as soon as it has the last byte of its last event, whether
or not white space, a line end or the end of the body follows. So the last byte of what is not yet
known to be a whole event, and the white space behind it, is held back until it is: the recorder
then comes first, however the bytes arrive.
"""

import logging
import re
from contextlib import suppress
from enum import Enum
from typing import Any

from pydantic_core import from_json

from messages import Chunk
from protocols.base import Json, Protocol, as_dict, error_message
from protocols.json_reading import LENIENT, parse_exactly, parse_leniently

MAX_EVENT_BYTES = 64 * 2**20
"""The longest line, or whole document, that is read."""

KEPT_BYTES = 2**16
"""How much is kept of the beginning of an event that is no JSON."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
EVENT_FIELD = re.compile(rb"\s*(data|event|id|retry)?:")
"""How a stream of server-sent events begins."""

BEGINNINGS = (b"data:", b"event:", b"id:", b"retry:", BYTE_ORDER_MARK)

MAX_DATA_LINES = 100
"""How many lines of one event are joined."""

ARGUMENTS = re.compile(r'(?<!\\)"(?:arguments|input)"\s*:\s*(?={)')

diagnostics = logging.getLogger("minivault")


class Framing(Enum):
    """How the events of an answer are separated."""

    LINES = "application/x-ndjson"
    EVENTS = "text/event-stream"
    DOCUMENT = "application/json"

    @classmethod
    def of(cls, content_type: str) -> "Framing | None":
        """Return the framing of a `Content-Type`, None if it is none of these."""
        name = content_type.partition(";")[0].strip().lower()
        return next((framing for framing in cls if framing.value == name), None)

    @classmethod
    def detect(cls, data: bytes, declared: "Framing | None", *, may_be_lines: bool) -> "Framing":
        """Return the framing that the beginning of an answer looks like, whatever was declared."""
        if EVENT_FIELD.match(data):
            return cls.EVENTS
        if data.lstrip()[:1] != b"{":
            return declared or cls.DOCUMENT
        if declared is cls.LINES:
            return declared
        line, _, _ = data.strip().partition(b"\n")
        is_first_line = may_be_lines and (declared is not cls.DOCUMENT or is_object(line))
        return cls.LINES if is_first_line else cls.DOCUMENT


def is_object(data: bytes) -> bool:
    """Return whether the data is a whole JSON object."""
    with suppress(ValueError):
        return isinstance(from_json(data), dict)
    return False


def find_arguments(text: str) -> list[str]:
    """Return the objects in an event that are the arguments of tool calls, as they are written."""
    found = []
    position = 0
    while match := ARGUMENTS.search(text, position):
        try:
            _, position = LENIENT.raw_decode(text, match.end())
        except (ValueError, RecursionError):
            break
        if text[match.end() : position].strip("{} \t\r\n"):  # none count as absent
            found.append(text[match.end() : position])
    return found


def is_undecided(data: bytes) -> bool:
    """Return whether the data is too short to tell its framing."""
    begin = data.lstrip()
    return any(each.startswith(begin) and begin != each for each in BEGINNINGS)


class AnswerReader:
    """Reads an answer's bytes as they pass. The chunk that `feed` returns holds bytes that can be
    sent on now and the meaning of what has been completed; after `done` or `error` nothing more is
    read.

    A strict reader fails at what is not of the protocol; any other keeps it as text.
    """

    def __init__(
        self,
        protocol: Protocol,
        framing: Framing | None,
        *,
        server: str = "Ollama",
        status: int = 200,
        streamed: bool = True,
        strict: bool = False,
    ) -> None:
        """The framing is what was declared; unless the reader is strict, the first bytes tell it,
        and `streamed`, what the client asked for. `server` is the name of what answers, for
        messages."""
        self.framing = framing
        self._protocol = protocol
        self._server = server
        self._status = status
        self._streamed = streamed
        self._strict = strict
        self._has_begun = strict
        """Whether the framing is known; what has arrived before is held back."""
        self._is_done = False
        self._ended = False
        self._held: list[bytes] = []
        self._partial: list[bytes] = []
        self._partial_bytes = 0
        self._ends_with_cr = False
        self._data_lines: list[bytes] = []
        """Those of the current event that are no event by themselves."""

    def feed(self, data: bytes) -> Chunk:
        """Return what can be sent on, with the meaning of the events that the data completes."""
        if self._ended:
            return Chunk(wire=self._release(data))
        if not self._has_begun and is_undecided(b"".join([*self._held, data])):
            self._held.append(data)
            return Chunk()
        if self._held and not data.strip(b" \t") and self._partial_bytes < MAX_EVENT_BYTES:
            self._held.append(data)
            self._partial.append(data)
            self._partial_bytes += len(data)
            return Chunk()
        chunk = Chunk(wire=self._release(data))
        if not self._has_begun:
            data = self._begin(chunk.wire)
        lines = self._split(data)
        if self._partial and len(lines) > 1:
            lines[0] = b"".join([*self._partial, lines[0]])
            self._partial = []
            self._partial_bytes = 0
        rest = lines.pop()
        for line in lines:
            self._read_line(line, chunk)
            if chunk.error or (chunk.done and self._strict):
                self._ended = True
                return chunk
        if rest:
            self._partial.append(rest)
            self._partial_bytes += len(rest)
            if self._partial_bytes > MAX_EVENT_BYTES:
                self._read_beginning(chunk)
        if chunk.done:
            self._is_done = True
            self._ended = self._strict
        elif self._partial and not self._is_done and not self._ended:
            end = max(len(chunk.wire.rstrip()) - 1, 0)
            chunk.wire, self._held = chunk.wire[:end], [chunk.wire[end:]]
        return chunk

    def _begin(self, data: bytes) -> bytes:
        """Find out the framing by the beginning of the body; return it without a byte order
        mark."""
        self._has_begun = True
        data = data.removeprefix(BYTE_ORDER_MARK)
        if self._status < 400:
            may_be_lines = self._streamed and self._protocol.streams_by_default
            self.framing = Framing.detect(data, self.framing, may_be_lines=may_be_lines)
        return data

    def _release(self, data: bytes) -> bytes:
        """Return what was held back, followed by the data."""
        held, self._held = self._held, []
        return b"".join([*held, data]) if held else data

    def end(self) -> Chunk:
        """Return what was held back, with the meaning of the end of the bytes: an error unless the
        answer is complete."""
        chunk = Chunk(wire=self._release(b""))
        if not self._ended and not self._is_done:
            rest = b"".join(self._partial) if self._has_begun else self._begin(chunk.wire)
            self._read_line(rest, chunk)
            self._read_blank_line(chunk)
            if self.framing is Framing.DOCUMENT and not chunk.done and not chunk.error:
                self._read_as_lines(rest, chunk)
            if not chunk.done and not chunk.error:
                self._fail_at_end(rest, chunk)
        self._ended = True
        return chunk

    def abort(self) -> Chunk:
        """Return the meaning of what was not complete when the connection broke, without bytes."""
        chunk = Chunk()
        rest = b"".join(self._partial)
        if rest and not self._ended and not self._strict:
            self._read_part(rest, chunk)
        self._ended = True
        return chunk

    def _read_as_lines(self, document: bytes, chunk: Chunk) -> None:
        """Update the chunk with what the lines of a document mean that is no document."""
        lines = [line for line in document.split(b"\n") if line.strip()]
        if len(lines) > 1 and all(map(is_object, lines)):
            self.framing = Framing.LINES
            for line in lines:
                self._read_line(line, chunk)

    def _fail_at_end(self, rest: bytes, chunk: Chunk) -> None:
        """Update the chunk with what the rest of an answer that is not complete says."""
        if self._status >= 400:
            self._fail(chunk, rest[:200].decode(errors="replace") or "no reason given")
            return
        if self._protocol.takes_text and self.framing is Framing.DOCUMENT:
            chunk.response.append(rest.decode(errors="replace"))
            chunk.done = True
            return
        if rest and not self._strict and not chunk.response:
            self._read_part(rest, chunk)
        chunk.error = f"{self._server} broke off before the end of its answer"

    def _split(self, data: bytes) -> list[bytes]:
        """Return the lines of the data, the last one without an end; a document is one line."""
        if self.framing is Framing.DOCUMENT:
            return [data]
        if self.framing is Framing.EVENTS and (self._ends_with_cr or b"\r" in data):
            # its lines may also end with CR LF, or with CR alone
            ended_with_cr, self._ends_with_cr = self._ends_with_cr, data.endswith(b"\r")
            data = data.removeprefix(b"\n") if ended_with_cr else data
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data.split(b"\n")

    def _read_line(self, line: bytes, chunk: Chunk) -> None:
        """Update the chunk with what the line means."""
        if self.framing is not Framing.EVENTS:
            if line.strip():
                self._read_data(line, chunk)
            return
        if line.startswith(b"data:"):
            self._read_data(line[5:], chunk)
        elif not line and self._data_lines:
            self._read_blank_line(chunk)

    def _read_blank_line(self, chunk: Chunk) -> None:
        """Update the chunk with what the lines of an event mean together."""
        lines, self._data_lines = self._data_lines, []
        data = b"\n".join(lines)
        if data.strip():
            event = self._parse_other(data) if len(lines) > 1 else None
            if isinstance(event, dict):
                self._read_event(event, data, chunk)
            else:
                self._keep_text(data, chunk)

    def _read_data(self, data: bytes, chunk: Chunk) -> None:
        """Update the chunk with what an event means, or the beginning of one."""
        if self._data_lines:  # of an event that has several lines this may be the last one
            lines, self._data_lines = self._data_lines, []
            whole = b"\n".join([*lines, data])
            if is_object(whole):
                self._read_event(from_json(whole), whole, chunk)
            elif data.strip() == self._protocol.last_data:
                chunk.done = True
            else:
                self._data_lines = [*lines, data]
                if len(lines) >= MAX_DATA_LINES:
                    self._read_blank_line(chunk)
            return
        try:
            event = from_json(data, cache_strings="keys")
        except ValueError:
            event = self._parse_other(data)
        if isinstance(event, dict) and not (self._strict and not self._protocol.is_event(event)):
            self._read_event(event, data, chunk)
        elif data.strip() == self._protocol.last_data:
            chunk.done = True
        elif self.framing is Framing.EVENTS and not self._strict:
            self._data_lines.append(data)  # an event may have several lines
        elif self.framing is Framing.LINES:
            self._keep_text(data, chunk)

    def _parse_other(self, data: bytes) -> Any:
        """Return what the data is to a lenient reader, None if it is no JSON at all."""
        try:
            return parse_leniently(data)
        except ValueError:
            return None

    def _read_event(self, event: Json, data: bytes, chunk: Chunk) -> None:
        streamed = self.framing is not Framing.DOCUMENT
        calls = len(chunk.tool_calls)
        try:
            self._protocol.read_event(event, chunk, streamed=streamed)
            if len(chunk.tool_calls) > calls:
                self._keep_arguments(data, chunk, calls)
        except Exception:  # a bug of ours must not reach a client who only waits for the bytes
            diagnostics.exception("an event of an answer could not be read")
        if chunk.error or self._status >= 400:
            message = chunk.error or error_message(event.get("error")) or str(event)[:200]
            self._fail(chunk, message)

    def _keep_arguments(self, data: bytes, chunk: Chunk, first: int) -> None:
        """Let the arguments of tool calls be the text that they came as, if an object cannot say
        all of it."""
        calls = [
            call
            for call in chunk.tool_calls[first:]
            if isinstance(call.arguments, dict) and call.arguments
        ]
        if not calls:
            return
        text = data.decode(errors="replace")
        with suppress(ValueError):
            parse_exactly(text)
            return
        found = find_arguments(text)
        for call, arguments in zip(calls, found, strict=False) if len(found) == len(calls) else ():
            try:
                parse_exactly(arguments)
            except ValueError:
                call.arguments = arguments

    def _keep_text(self, data: bytes, chunk: Chunk) -> None:
        """Keep what is no event of the protocol as text; a strict reader fails."""
        text = data.decode(errors="replace")
        if self._strict:
            self._fail(chunk, f"its answer does not follow its protocol: {text.strip()[:200]}")
        elif self._status < 400:
            chunk.response.append(text)
            chunk.unreadable += 1

    def _read_beginning(self, chunk: Chunk) -> None:
        """Update the chunk with the part of an event that is there, and fail: it is too long."""
        self._read_part(b"".join(self._partial), chunk)
        self._partial = []
        self._fail(chunk, f"an event of its answer has more than {MAX_EVENT_BYTES} bytes")

    def _read_part(self, data: bytes, chunk: Chunk) -> None:
        """Update the chunk with what the beginning of an event means, as text if it is no JSON."""
        if self.framing is Framing.EVENTS:
            field, _, data = data.partition(b":")
            if field != b"data":
                return
        try:
            event = as_dict(from_json(data, allow_partial="trailing-strings"))
            self._protocol.read_event(event, chunk, streamed=self.framing is not Framing.DOCUMENT)
        except ValueError:
            chunk.response.append(data[:KEPT_BYTES].decode(errors="replace"))
        chunk.done = False

    def _fail(self, chunk: Chunk, message: str) -> None:
        self._ended = True
        chunk.done = False
        failed = f"answered {self._status}" if self._status >= 400 else "failed"
        chunk.error = f"{self._server} {failed}: {message}"
