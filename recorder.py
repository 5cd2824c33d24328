"""The recorder: every chunk of an answer passes through here on its way to the client.

One recorder serves one request, on either endpoint. However the request ends, whole, failed or
left by its client, it makes exactly one log entry; and since it ends its iteration only when the
log has that entry, an endpoint that waits for the end has nothing else to remember.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Literal

import anyio

from exchange import Chunk, Prompt
from llm_services import LLMService
from logger import JsonlLog, LogEntry, LogUnavailableError, timestamp


def milliseconds(seconds: float) -> float:
    """Return seconds as milliseconds, to the microsecond."""
    return round(seconds * 1000, 3)


class Recorder:
    """Passes on what a service answers to one prompt, and logs it. `entry` is there at the end."""

    def __init__(self, log: JsonlLog, service: LLMService, request_id: str, endpoint: str) -> None:
        self.entry: LogEntry | None = None
        self._log = log
        self._service = service
        self._id = request_id
        self._endpoint = endpoint
        self._model: str | None = None
        self._last = Chunk()
        self._response: list[str] = []
        self._thinking: list[str] = []
        self._ttft_ms: float | None = None

    async def record(self, prompt: Prompt) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks that carry text, and end when the entry is in the log.

        Raises:
            LLMServiceError: the service failed; the entry says so and is in the log.
            LogUnavailableError: the entry could not be written.
        """
        self._started_at, self._clock = datetime.now(UTC), time.monotonic()
        try:
            async with aclosing(self._service.stream(prompt)) as chunks:
                async for chunk in chunks:
                    self._note(chunk)
                    if chunk.response or chunk.thinking:
                        yield chunk
        except Exception as exc:
            await self._close(prompt, "error", str(exc) or repr(exc))
            raise
        except BaseException:  # CancelledError, GeneratorExit: the client left, or we stop
            with suppress(LogUnavailableError):  # nobody is left to be told
                await self._close(prompt, "cancelled")
            raise
        await self._close(prompt, "ok")

    def _note(self, chunk: Chunk) -> None:
        self._last = chunk
        self._model = chunk.model or self._model
        if chunk.response:
            self._response.append(chunk.response)
        if chunk.thinking:
            self._thinking.append(chunk.thinking)
        if self._ttft_ms is None and (chunk.response or chunk.thinking):
            self._ttft_ms = milliseconds(time.monotonic() - self._clock)

    async def _close(
        self, prompt: Prompt, status: Literal["ok", "cancelled", "error"], error: str | None = None
    ) -> None:
        self.entry = LogEntry(
            id=self._id,
            started_at=timestamp(self._started_at),
            finished_at=timestamp(datetime.now(UTC)),
            duration_ms=milliseconds(time.monotonic() - self._clock),
            endpoint=self._endpoint,
            llm_type=self._service.llm_type,
            model=self._model or prompt.model or self._service.model,
            status=status,
            prompt=prompt.prompt,
            system=prompt.system,
            options=prompt.options,
            format=prompt.format,
            think=prompt.think,
            response="".join(self._response),
            thinking="".join(self._thinking) or None,
            error=error,
            ttft_ms=self._ttft_ms,
            prompt_tokens=self._last.prompt_tokens,
            response_tokens=self._last.response_tokens,
        )
        # Starlette cancels a stream's scope when its client leaves, and anew at every await
        with anyio.CancelScope(shield=True):
            await self._log.append(self.entry)
