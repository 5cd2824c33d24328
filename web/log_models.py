"""What the log answers over HTTP, as OpenAPI describes it."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, WithJsonSchema

from log.entry import LogEntry, Status
from web.docs import EXAMPLE_ENTRY

Timestamp = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class ToolCall(BaseModel):
    """A tool call of an answer."""

    id: str | None
    name: str | None
    arguments: Any = Field(description="an object, or the text as it came if that says more")
    result: Any = Field(None, description="what a search of Ollama's own found")


@dataclass
class Entry(LogEntry):
    """One request and its answer."""

    started_at: Timestamp
    finished_at: Timestamp
    tool_calls: list[ToolCall] | None = None  # type: ignore[assignment]
    request: Any = None


Warnings = Annotated[
    list[str], Field(description="what could not be read, or may not have arrived yet")
]


class LogPage(BaseModel):
    """Entries, newest first."""

    entries: list[Entry | dict[str, Any]] = Field(
        description="whole entries, or objects with the `fields` that were asked for"
    )
    count: int | None = Field(
        description="how many entries match in all, if the whole log has been read to its end"
    )
    warnings: Warnings
    next: str | None = Field(
        description="the `before` of the next page, if there is one",
        examples=[f"2026-11-24.8.{EXAMPLE_ENTRY.finished_at}~{EXAMPLE_ENTRY.id}"],
    )


class Count(BaseModel):
    """The last line of the response; those before it have `progress`, and the count so far."""

    count: int
    warnings: Warnings


class Percentiles(BaseModel):
    """Percentiles of a group of values."""

    p50: float
    p95: float
    p99: float


class Bucket(BaseModel):
    """The entries of one period."""

    start: Timestamp
    ok: int
    error: int
    cancelled: int
    ttft_ms: Percentiles | None
    duration_ms: Percentiles | None
    prompt_tokens: int
    response_tokens: int


class ModelFigures(BaseModel):
    """The complete answers of one model."""

    model: str
    entries: int
    prompt_tokens: int
    response_tokens: int
    tokens_per_second: Percentiles | None
    load_ms: Percentiles | None


class DayFigures(BaseModel):
    """The complete answers of one model on one day."""

    day: Annotated[str, WithJsonSchema({"type": "string", "format": "date"})]
    model: str
    entries: int
    prompt_tokens: int
    response_tokens: int


class ClientFigures(BaseModel):
    """The complete answers that one program asked for."""

    client: str | None = Field(description="its name without a version; null if it has none")
    entries: int
    prompt_tokens: int
    response_tokens: int


class SlowEntry(BaseModel):
    """An entry, as far as a list shows it."""

    id: str
    started_at: Timestamp
    finished_at: Timestamp
    endpoint: str
    model: str | None
    status: Status
    duration_ms: float
    ttft_ms: float | None
    response_tokens: int | None
    prompt_chars: int | None
    prompt: str | None


class Figures(BaseModel):
    """The last line of the response; those before it are `{"progress": <part that is read>}`."""

    since: Timestamp
    until: Timestamp
    bucket_seconds: int
    entries: int
    buckets: list[Bucket]
    models: list[ModelFigures]
    days: list[DayFigures]
    clients: list[ClientFigures]
    slowest: list[SlowEntry]
    warnings: Warnings
