"""Ollama's wire: an answer, read from pieces that end anywhere, and the list of models."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from enum import Enum

import aiohttp
from pydantic import BaseModel
from pydantic_core import from_json

from upstream.deadline import Deadline
from messages import Chunk
from protocols.base import Protocol, error_words

MAX_EVENT_BYTES = 64 * 2**20
"""The longest line, or whole document, that is read."""

MAX_EARLY_BYTES = 2**28
"""How much of an event is read, again and again, before its end has come, in case it was only its
line end that has not: a client may take the answer for whole by then."""

END_SECONDS = 1.0
"""How long to wait for the end of an answer that is whole, so that its connection is kept."""

CUT_OFF = "Ollama broke off before the end of its answer"

diagnostics = logging.getLogger("minivault")


class Framing(Enum):
    """How the events of an answer stand in its bytes."""

    LINES = "application/x-ndjson"
    EVENTS = "text/event-stream"
    DOCUMENT = "application/json"

    @classmethod
    def of(cls, content_type: str) -> "Framing":
        """Return the framing that a `Content-Type` says; a document where it says neither other."""
        name = content_type.partition(";")[0].strip().lower()
        return next((framing for framing in cls if framing.value == name), cls.DOCUMENT)


class Template:
    """What stands around the text of an event, in case the next one differs in nothing else.

    Then the string between the same bytes is its text, and the rest of it need not be parsed. What
    else the event says, the one before has said.
    """

    def __init__(self) -> None:
        self._before = self._after = b""

    def take(self, event: bytes, words: str) -> None:
        """Take up an event that says these words, and nothing that would have to be said again;
        one without words is like no other."""
        self._before = b""
        if not words or b"\\" in event:  # with escapes no quotation marks can be counted
            return
        before, quoted, after = event.partition(b'"%b"' % words.encode())
        is_string = quoted and before.count(b'"') % 2 == 0  # not `":"`, say, between two others
        if is_string and quoted not in after:
            self._before, self._after = before + b'"', b'"' + after

    def words(self, event: bytes) -> str:
        """Return what an event says that differs in its words alone; nothing where it may not."""
        if not (self._before and event.startswith(self._before) and event.endswith(self._after)):
            return ""
        try:
            string = b'"%b"' % event[len(self._before) : -len(self._after)]
            words: str = from_json(string, cache_strings="none")
        except ValueError:  # not just one string
            return ""
        return words


class AnswerReader:
    """Reads along as an answer's bytes pass: what `feed` returns holds just these bytes and what
    they mean, with `done` or `error` at the end, after which nothing more is read.

    A strict one ends at what is not of the protocol, any other passes it over.
    """

    def __init__(
        self, protocol: Protocol, framing: Framing, *, status: int = 200, strict: bool = False
    ) -> None:
        self._protocol = protocol
        self._is_document = framing is Framing.DOCUMENT
        self._is_events = framing is Framing.EVENTS
        self._template = Template() if self._is_events and protocol.events_are_alike else None
        self._status = status
        self._strict = strict
        self._over = False
        self._begun: list[bytes] = []
        self._begun_bytes = 0
        self._early_bytes = 0

    def feed(self, data: bytes) -> Chunk:
        """Return what the events that the data completes mean."""
        chunk = Chunk(wire=data)
        if self._over:
            return chunk
        lines = [data] if self._is_document else data.split(b"\n")
        if self._begun and len(lines) > 1:
            lines[0] = b"".join([*self._begun, lines[0]])
            self._forget_begun()
        rest = lines.pop()
        for line in lines:
            if line:
                self._read(line, chunk)
                if self._over:
                    return chunk
        if rest:
            self._begun.append(rest)
            self._begun_bytes += len(rest)
            if self._begun_bytes > MAX_EVENT_BYTES:
                self._fail(chunk, f"an event of its answer has more than {MAX_EVENT_BYTES} bytes")
            elif rest.rstrip()[-1:] in (b"}", b"]"):
                self._read_early(chunk)
        return chunk

    def end(self) -> Chunk:
        """Return what the end of the bytes means: an error where the answer is not whole by now."""
        chunk = Chunk()
        if not self._over:
            rest = b"".join(self._begun)
            self._read(rest, chunk)
            if not self._over and self._status >= 400:
                self._fail(chunk, rest[:200].decode(errors="replace") or "nothing more")
            elif not self._over:
                chunk.error = CUT_OFF
        return chunk

    def _forget_begun(self) -> None:
        self._begun = []
        self._begun_bytes = self._early_bytes = 0

    def _read_early(self, chunk: Chunk) -> None:
        self._early_bytes += self._begun_bytes
        if self._early_bytes <= MAX_EARLY_BYTES and self._read(
            b"".join(self._begun), chunk, early=True
        ):
            self._forget_begun()

    def _read(self, line: bytes, chunk: Chunk, *, early: bool = False) -> bool:
        """Note in the chunk what the line means; return whether it was read."""
        if self._template and (words := self._template.words(line)):
            chunk.response.append(words)
            return True
        data = line
        if self._is_events:
            if not line.startswith(b"data:"):
                return False
            data = line[5:]
        try:
            event = from_json(data, cache_strings="keys")
            if not isinstance(event, dict) or self._strict and not self._protocol.fits(event):
                raise ValueError
        except ValueError:
            return self._read_other(data.strip(), chunk, early)
        texts = len(chunk.response)
        try:
            self._protocol.note(event, chunk, streamed=not self._is_document)
        except Exception:  # a bug of ours must not reach who only waits for the bytes
            diagnostics.exception("an event of an answer could not be read")
        if chunk.error or self._status >= 400:
            self._fail(chunk, chunk.error or error_words(event.get("error")) or str(event)[:200])
        if chunk.done:
            self._over = True
        if self._template:
            says_more = len(chunk.response) != texts + 1 or chunk.thinking or chunk.tool_calls
            self._template.take(line, "" if says_more else chunk.response[-1])
        return True

    def _read_other(self, data: bytes, chunk: Chunk, early: bool) -> bool:
        """Note in the chunk what a line that is no event means; return whether it was read."""
        if data == self._protocol.last_data:
            chunk.done = self._over = True
            return True
        if self._strict and data and not early:
            what = data[:200].decode(errors="replace")
            self._fail(chunk, f"it sent what is not its protocol: {what}")
        return False

    def _fail(self, chunk: Chunk, words: str) -> None:
        self._over = True
        failed = f"answered {self._status}" if self._status >= 400 else "failed"
        chunk.error = f"Ollama {failed}: {words}"


class OllamaAnswer:
    """What Ollama answers to one request: the head, and the body as it comes.

    Time is kept by tokens, not by reads: what brings no token gives the next one no new time.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, deadline: Deadline, idle_seconds: float
    ) -> None:
        self.status = response.status
        self.headers = response.headers
        self.raw_headers = response.raw_headers
        self.has_length = "Content-Length" in response.headers
        self.has_token = False
        self._body = response.content
        self._deadline = deadline
        self._idle_seconds = idle_seconds

    async def _next(self) -> bytes:
        """Return what is there, or wait for it; nothing at the end."""
        with self._deadline:
            return await self._body.readany()

    async def read(self, limit: int) -> bytes:
        """Return the body, or as much of it as the limit allows; the rest is not read."""
        body = b""
        while len(body) < limit and (data := await self._next()):
            body += data
        return body[:limit]

    async def chunks(self, reader: AnswerReader) -> AsyncGenerator[Chunk, None]:
        """Yield what comes as the reader reads it, to the end of the bytes.

        Raises:
            TimeoutError: no token came in time.
            aiohttp.ClientError: the connection was lost.
        """
        now = asyncio.get_running_loop().time
        while data := await self._next():
            chunk = reader.feed(data)
            paused_at = now()
            yield chunk
            if chunk.done:
                self._deadline.renew(END_SECONDS)
                # behind a length that is not reached no body can be finished
                with suppress(*(() if self.has_length else (TimeoutError, aiohttp.ClientError))):
                    while data := await self._next():
                        yield Chunk(wire=data)
                return
            if chunk.has_token:
                self.has_token = True
                self._deadline.renew(self._idle_seconds)
            else:
                self._deadline.extend(now() - paused_at)
        yield reader.end()

    async def pieces(self) -> AsyncGenerator[Chunk, None]:
        """Yield what comes, not read; each piece gives the next one new time."""
        while data := await self._next():
            yield Chunk(wire=data)
            self._deadline.renew(self._idle_seconds)


class ModelList(BaseModel):
    """Ollama's `/api/tags`, as far as it is read here."""

    class Model(BaseModel):
        name: str

    models: list[Model]


def listed_name(model: str) -> str:
    """Return a model's name as `/api/tags` lists it, in lower case: Ollama ignores case."""
    name = model.casefold().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
