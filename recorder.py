"""The recorder: every chunk of an answer passes through here on its way to the client.

One recorder serves one request, whichever way it came in. However the request ends, whole, failed
or left by its client, it makes exactly one log entry; and the chunk that makes an answer whole goes
on only when the log has that entry. So nothing behind it has anything to remember.
"""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import Request
from pydantic_core import from_json

from telemetry import metrics
from telemetry import tracing
from web.client import Client
from messages import Asked, Chunk, ToolCallPiece
from log.entry import LogEntry, timestamp
from logger import JsonlLog, LogUnavailableError

diagnostics = logging.getLogger("uvicorn.error")

STOPPED = "the service stopped"


def milliseconds(seconds: float) -> float:
    """Return seconds as milliseconds, to the microsecond."""
    return round(seconds * 1000, 3)


class ToolCalls:
    """The tool calls of an answer, put together from their pieces."""

    def __init__(self) -> None:
        self._calls: dict[object, dict[str, Any]] = {}

    def add(self, piece: ToolCallPiece) -> None:
        """Add a piece to the call that it belongs to."""
        call = self._calls.setdefault(piece.key, {"id": None, "name": None, "arguments": []})
        call["id"] = piece.id or call["id"]
        call["name"] = piece.name or call["name"]
        if piece.arguments is not None:
            call["arguments"].append(piece.arguments)

    def whole(self) -> list[dict[str, Any]] | None:
        """Return the calls, their arguments as objects where they parse; None without any."""
        calls = self._calls.values()
        return [{**call, "arguments": self._joined(call["arguments"])} for call in calls] or None

    @staticmethod
    def _joined(pieces: list[str | dict[str, Any]]) -> Any:
        if pieces and isinstance(pieces[-1], dict):
            return pieces[-1]
        text = "".join(piece for piece in pieces if isinstance(piece, str))
        with suppress(ValueError):
            return from_json(text, allow_inf_nan=False)
        return text


class Recorder:
    """Passes on the answer to one request, and logs it. `entry` is there at its end."""

    def __init__(
        self,
        log: JsonlLog,
        asked: Asked,
        client: Client,
        *,
        request_id: str,
        endpoint: str,
        llm_type: str,
    ) -> None:
        self.entry: LogEntry | None = None
        self._log = log
        self._asked = asked
        self._client = client
        self._id = request_id
        self._endpoint = endpoint
        self._llm_type = llm_type
        self._known = Chunk(model=asked.model)
        self._response: list[str] = []
        self._thinking: list[str] = []
        self._tool_calls = ToolCalls()
        self._ttft_ms: float | None = None

    async def record(self, chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks, the last one of them when the entry is in the log.

        Raises:
            LLMServiceError: the service failed; the entry says so and is in the log.
            LogUnavailableError: the entry could not be written.
        """
        self._started_at, self._clock = datetime.now(UTC), time.monotonic()
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    self._note(chunk)
                    if chunk.done or chunk.error:
                        await self._close("error" if chunk.error else "ok", chunk.error)
                    if chunk.error:
                        diagnostics.warning("request %s failed, as its answer says", self._id)
                    yield chunk
        except Exception as exc:
            await self._close("error", str(exc) or repr(exc))
            raise
        except BaseException:  # CancelledError, GeneratorExit
            with suppress(LogUnavailableError):  # nobody is left to be told
                await self._close("cancelled", self._client.departure or STOPPED)
            raise

    def _note(self, chunk: Chunk) -> None:
        if self._ttft_ms is None and chunk.has_token:
            self._ttft_ms = milliseconds(time.monotonic() - self._clock)
        if chunk.response:
            self._response.append("".join(chunk.response))
        if chunk.thinking:
            self._thinking.append("".join(chunk.thinking))
        for piece in chunk.tool_calls:
            self._tool_calls.add(piece)
        known = self._known
        known.model = chunk.model or known.model
        known.finish_reason = chunk.finish_reason or known.finish_reason
        if chunk.prompt_tokens is not None:
            known.prompt_tokens = chunk.prompt_tokens
        if chunk.response_tokens is not None:
            known.response_tokens = chunk.response_tokens

    async def _close(
        self, status: Literal["ok", "cancelled", "error"], error: str | None = None
    ) -> None:
        if self.entry:
            return
        asked, known = self._asked, self._known
        response = "".join(self._response)
        self.entry = LogEntry(
            id=self._id,
            started_at=timestamp(self._started_at),
            finished_at=timestamp(datetime.now(UTC)),
            duration_ms=milliseconds(time.monotonic() - self._clock),
            endpoint=self._endpoint,
            llm_type=self._llm_type,
            model=known.model,
            status=status,
            prompt=asked.prompt,
            system=asked.system,
            options=asked.options,
            format=asked.format,
            think=asked.think,
            response=response,
            thinking="".join(self._thinking) or None,
            error=error,
            ttft_ms=self._ttft_ms,
            prompt_tokens=known.prompt_tokens,
            response_tokens=known.response_tokens,
            finish_reason=known.finish_reason,
            tool_calls=self._tool_calls.whole(),
            request=asked.request,
            client=self._client.address,
            user_agent=self._client.user_agent,
            trace_id=tracing.trace_id(),
            prompt_chars=None if asked.prompt is None else len(asked.prompt),
            response_chars=len(response),
        )
        try:
            await self._log.append(self.entry)
        finally:
            metrics.count(self.entry)
            tracing.describe(self.entry)


@dataclass(frozen=True)
class Recording:
    """The chunks of an answer, and the recorder that they pass; None where nothing is kept."""

    recorder: Recorder | None
    chunks: AsyncGenerator[Chunk, None]

    @property
    def entry(self) -> LogEntry | None:
        """The entry, once it is made; None where nothing is kept."""
        return self.recorder.entry if self.recorder else None


@asynccontextmanager
async def recording(
    request: Request, asked: Asked, chunks: AsyncGenerator[Chunk, None]
) -> AsyncIterator[Recording]:
    """Let an answer begin; after the block, however it went, end what is left of it.

    Raises:
        LogUnavailableError: the log cannot be written, so nothing is asked of the service.
        TooManyRequestsError: the limit is reached.
    """
    state = request.state
    state.log.check()
    with state.in_flight.slot():
        recorder = Recorder(
            state.log,
            asked,
            state.client,
            request_id=state.request_id,
            endpoint=request.scope["route"].path,
            llm_type=state.service.llm_type,
        )
        async with aclosing(recorder.record(chunks)) as passing:
            yield Recording(recorder, passing)
