"""The recorder: every chunk of an answer passes through here on its way to the client.

However a request ends, complete, failed or left by its client, it gets exactly one log entry; and
the chunk that completes an answer is handed on only when the log has that entry. So nothing behind
the recorder has to know about the log.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from log.entry import LogEntry, Status, format_timestamp
from logger import JsonlLog, LogUnavailableError
from messages import Chunk, LoggedRequest, ToolCallDelta
from protocols.json_reading import parse_exactly
from telemetry import metrics, tracing
from web.client import Client

diagnostics = logging.getLogger("minivault")

SERVICE_STOPPED = "the service stopped"


class TooManyRequestsError(Exception):
    """As many answers are in flight as are allowed."""


@dataclass(slots=True)
class ToolCall:
    """A tool call, as far as its pieces have arrived."""

    id: str | None = None
    name: str | None = None
    arguments: list[str | dict[str, Any]] = field(default_factory=list)
    result: Any = None

    def add(self, delta: ToolCallDelta) -> None:
        """Add a piece."""
        self.id = delta.id or self.id
        self.name = delta.name or self.name
        if delta.arguments:
            self.arguments.append(delta.arguments)
        if delta.result is not None:
            self.result = delta.result

    def is_continued_by(self, delta: ToolCallDelta) -> bool:
        """Return whether a piece under the same key belongs to this call, and not to a new one.

        Some servers send every call under the index 0, or without an index: a new id or name, or
        the same name once the arguments are whole, begins a new call
        (https://github.com/ollama/ollama/issues/15457).
        """
        if delta.begins or delta.id and self.id and delta.id != self.id:
            return False
        if not delta.name or not self.name:
            return True
        return delta.name == self.name and not self._has_arguments()

    def _has_arguments(self) -> bool:
        """Return whether all arguments have arrived, as far as that can be told."""
        if not self.arguments or not str(self.arguments[-1]).rstrip().endswith("}"):
            return False
        return isinstance(self._join_arguments(), dict)

    def _join_arguments(self) -> Any:
        """Return the arguments as an object, as text if that would not say all of it."""
        if self.arguments and isinstance(self.arguments[-1], dict):
            return self.arguments[-1]
        text = "".join(piece for piece in self.arguments if isinstance(piece, str))
        with suppress(ValueError):
            return parse_exactly(text or "{}")
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return the call as the log has it."""
        found = {} if self.result is None else {"result": self.result}
        return {"id": self.id, "name": self.name, "arguments": self._join_arguments(), **found}


class ToolCalls:
    """The tool calls of an answer, put together from their pieces."""

    def __init__(self) -> None:
        self._calls: list[ToolCall] = []
        self._by_key: dict[object, ToolCall] = {}

    def add(self, delta: ToolCallDelta) -> None:
        """Add a piece to its call."""
        call = self._by_key.get(delta.key)
        if delta.result is not None:  # it stands behind the call, which it names by its id
            call = next((each for each in self._calls if each.id == delta.id), None)
        elif call and not call.is_continued_by(delta):
            call = None
        if call is None:
            call = ToolCall()
            self._calls.append(call)
        if delta.result is None:
            self._by_key[delta.key] = call
        call.add(delta)

    def collect(self) -> list[dict[str, Any]] | None:
        """Return the calls, None without any."""
        return [call.to_dict() for call in self._calls] or None


class Recording:
    """The record of one answer: its `chunks`, and its `entry` once they have ended."""

    def __init__(
        self,
        log: JsonlLog,
        request: LoggedRequest,
        chunks: AsyncGenerator[Chunk, None],
        client: Client,
        *,
        id: str,
        endpoint: str,
        llm_type: str,
        annotate: Callable[[LogEntry], None],
    ) -> None:
        self.entry: LogEntry | None = None
        self.chunks = self._record(chunks)
        self.started_at, self._started = format_timestamp(datetime.now(UTC)), time.monotonic()
        self._log = log
        self.request = request
        self.client = client
        self._id = id
        self.endpoint = endpoint
        self._llm_type = llm_type
        self._annotate = annotate
        self._known = Chunk(model=request.model)
        self._response: list[str] = []
        self._other_choices: dict[int, list[str]] = {}
        self._images: list[str] = []
        self._unreadable = 0
        self._thinking: list[str] = []
        self._tool_calls = ToolCalls()
        self._ttft_ms: float | None = None

    async def _record(self, chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks, the last one of them when the entry is in the log.

        Raises:
            LLMServiceError: the service failed; the entry says so and is in the log.
            LogUnavailableError: the entry could not be written.
        """
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    self._update(chunk)
                    if chunk.done or chunk.error:
                        await self._finish("error" if chunk.error else "ok", chunk.error)
                    if chunk.error:
                        diagnostics.warning("request %s failed; its log entry says why", self._id)
                    yield chunk
        except Exception as exc:
            await self._finish("error", str(exc) or repr(exc))
            raise
        except BaseException:  # CancelledError, GeneratorExit
            with suppress(LogUnavailableError):  # there is nobody left to tell
                await self._finish("cancelled", self._describe_departure())
            raise

    @property
    def tokens(self) -> int:
        """How many tokens have arrived, as far as each came in an event of its own."""
        return len(self._response) + len(self._thinking)

    def _describe_departure(self) -> str:
        return self.client.departure or SERVICE_STOPPED

    def _update(self, chunk: Chunk) -> None:
        if self._ttft_ms is None and chunk.has_token and not self.request.is_forwarded_whole:
            self._ttft_ms = self._elapsed_ms()
        self._response += chunk.response
        self._thinking += chunk.thinking
        for delta in chunk.tool_calls:
            self._tool_calls.add(delta)
        for index, texts in chunk.other_choices.items():
            self._other_choices.setdefault(index, []).extend(texts)
        self._images += chunk.images
        self._unreadable += chunk.unreadable
        self._known.update_facts(chunk)

    def _elapsed_ms(self) -> float:
        """Return the milliseconds since the request began, to the microsecond."""
        return round((time.monotonic() - self._started) * 1000, 3)

    async def _finish(self, status: Status, error: str | None = None) -> None:
        if self.entry:
            return
        request, known = self.request, self._known
        choices = [self._response, *(texts for _, texts in sorted(self._other_choices.items()))]
        response = "\n\n".join("".join(texts) for texts in choices if texts)
        if self._unreadable and not error:
            error = f"events that could not be read: {self._unreadable}; `response` has their text"
        error = error or request.unread
        tool_calls = self._tool_calls.collect()
        conversation = None
        if request.opening:
            conversation = request.opening.identify("".join(self._response), tool_calls)
        self.entry = LogEntry(
            id=self._id,
            started_at=self.started_at,
            finished_at=format_timestamp(datetime.now(UTC)),
            duration_ms=self._elapsed_ms(),
            endpoint=self.endpoint,
            llm_type=self._llm_type,
            model=known.model,
            status=status,
            prompt=request.prompt,
            system=request.system,
            options=request.options,
            format=request.format,
            think=request.think,
            response=response,
            thinking="".join(self._thinking) or None,
            error=error,
            ttft_ms=self._ttft_ms,
            prompt_tokens=known.prompt_tokens,
            response_tokens=known.response_tokens,
            finish_reason=known.finish_reason,
            tool_calls=tool_calls,
            request=request.body,
            client=self.client.address,
            user_agent=self.client.user_agent,
            trace_id=tracing.trace_id(),
            prompt_chars=request.prompt_chars,
            response_chars=len(response),
            streamed=request.streamed,
            load_ms=known.load_ms,
            prompt_ms=known.prompt_ms,
            response_ms=known.response_ms,
            tools=request.tools,
            conversation=conversation,
            client_request_id=self.client.request_id,
            images=self._images or None,
        )
        try:
            await self._log.append(self.entry, self._describe_departure)
        finally:
            metrics.count(self.entry)
            self._annotate(self.entry)


class Recorder:
    """Records the answers of this process, at most `limit` of them at a time."""

    def __init__(
        self, log: JsonlLog, llm_type: str, limit: int, address: tuple[str, int] | None = None
    ) -> None:
        """`address` is where the service is, for traces."""
        metrics.IN_FLIGHT_LIMIT.set(limit)
        self._log = log
        self._llm_type = llm_type
        self._address = address
        self._limit = limit
        self.recordings: dict[str, Recording] = {}
        """The answers in flight, by the ids of their requests."""
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def in_flight(self) -> int:
        """How many answers are in flight."""
        return len(self._tasks)

    @asynccontextmanager
    async def record(
        self,
        request: LoggedRequest,
        chunks: AsyncGenerator[Chunk, None],
        client: Client,
        *,
        id: str,
        endpoint: str,
    ) -> AsyncIterator[Recording]:
        """Record an answer; however the block ends, what is left of the answer is ended too."""
        with tracing.trace_call(request, endpoint, self._llm_type, self._address) as annotate:
            recording = Recording(
                self._log,
                request,
                chunks,
                client,
                id=id,
                endpoint=endpoint,
                llm_type=self._llm_type,
                annotate=annotate,
            )
            self.recordings[id] = recording
            try:
                async with aclosing(recording.chunks):
                    yield recording
            finally:
                del self.recordings[id]

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count the current task as a request that is answered.

        Raises:
            LogUnavailableError: the log cannot be written, so the service is not even asked.
            TooManyRequestsError: the limit is reached.
        """
        self._log.check()
        if len(self._tasks) >= self._limit:
            raise TooManyRequestsError(
                f"{self._limit} requests are in flight, as many as MINIVAULT_MAX_CONCURRENCY "
                "allows; retry later"
            )
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with metrics.IN_FLIGHT.track_inprogress():
                yield
        finally:
            self._tasks.discard(task)

    async def wait_until_idle(self) -> None:
        """Wait until no answer is in flight."""
        if self._tasks:
            await asyncio.wait(self._tasks)
