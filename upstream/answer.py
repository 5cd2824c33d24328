"""An answer from upstream: its head, and its body as it arrives, in time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

import aiohttp

from messages import Chunk
from upstream.deadline import Deadline
from upstream.reader import AnswerReader

AFTER_DONE_SECONDS = 0.05
"""How long to wait for the end of the body before an answer counts as complete, as lines can follow
its last event. It mostly arrives with that."""

BODY_END_SECONDS = 1.0
"""How long to wait for it then, so that the connection can be used again."""


class UpstreamAnswer:
    """The answer to one request.

    Time is kept by tokens, not by reads: what brings no token does not move the deadline.
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

    async def _read_any(self) -> bytes:
        """Return what has arrived, or wait for it; nothing at the end."""
        with self._deadline:
            return await self._body.readany()

    async def read(self, limit: int) -> bytes:
        """Return the body, or its first `limit` bytes; the rest is not read."""
        body = b""
        while len(body) < limit and (data := await self._read_any()):
            body += data
        return body[:limit]

    async def read_chunks(self, reader: AnswerReader) -> AsyncGenerator[Chunk, None]:
        """Yield the body as it arrives, with what the reader reads in it.

        Raises:
            TimeoutError: no token arrived in time.
            aiohttp.ClientError: the connection was lost.
        """
        now = asyncio.get_running_loop().time
        while True:
            try:
                data = await self._read_any()
            except (TimeoutError, aiohttp.ClientError):
                yield reader.abort()
                raise
            if not data:
                break
            chunk = reader.feed(data)
            if self._body.at_eof():
                chunk.extend(reader.end())
                yield chunk
                return
            if chunk.done:
                async for rest in self._read_to_end(chunk, reader):
                    yield rest
                return
            paused_at = now()
            yield chunk
            if chunk.has_token:
                self.has_token = True
                self._deadline.renew(self._idle_seconds)
            else:
                self._deadline.extend(now() - paused_at)
        yield reader.end()

    async def _read_to_end(self, done: Chunk, reader: AnswerReader) -> AsyncGenerator[Chunk, None]:
        """Yield the chunk that completes the answer, with what follows at once, and the rest."""
        failure: Exception | None = None
        self._deadline.renew(AFTER_DONE_SECONDS)
        try:
            while data := await self._read_any():
                done.extend(reader.feed(data))
        except TimeoutError:
            pass
        except aiohttp.ClientError as exc:
            failure = exc
        yield done
        self._deadline.renew(BODY_END_SECONDS)
        # with a length that is not reached, the client's body cannot be finished either
        with suppress(*(() if self.has_length else (TimeoutError, aiohttp.ClientError))):
            if failure:
                raise failure
            while data := await self._read_any():
                yield Chunk(wire=data)

    async def unread_chunks(self) -> AsyncGenerator[Chunk, None]:
        """Yield the body as it arrives, as bytes alone; each piece renews the deadline."""
        while data := await self._read_any():
            yield Chunk(wire=data)
            self._deadline.renew(self._idle_seconds)
