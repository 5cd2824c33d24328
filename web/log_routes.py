"""The log over HTTP.

A reading process writes the body of a response, which is sent on as fast as the client reads it.
The head is sent with the first byte; a client that leaves ends the process.
"""

import dataclasses
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from zoneinfo import available_timezones

from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.types import Send

from formats import NewlineDelimitedJson, prefer
from log.entry import LogEntry, Status, format_timestamp
from log.filter import Filter
from log.processes import ReadingProcessError, TooManyReadersError
from log.reader import CURSOR, MAX_CURSOR
from log.worker import Job, Kind
from web.docs import ERRORS, EXAMPLE_ENTRY, describe_error, describe_errors
from web.keys import LOG_KEY_MISSING, check_log_key
from web.state import Request

PAGE_LENGTH = 50
RESPONSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
ONE_DAY = timedelta(days=1)
JSON_LINES = NewlineDelimitedJson.media_types
KINDS: dict[str, Kind] = {
    "application/json": "page",
    "text/csv": "csv",
    **dict.fromkeys(JSON_LINES, "lines"),
}
"""What is sent of the entries, by the media type."""

CHAT_PROFILE = re.compile(r';\s*profile\s*=\s*"?messages\b', re.IGNORECASE)
ENTRY_NOT_FOUND = "the log has no entry with this id"
LOG_UNREADABLE = "the log cannot be read now; see MiniVault's own output for the reason"

assert hasattr(StreamingResponse, "stream_response"), "Starlette streams in another way now"


class FoundResponse(StreamingResponse):
    """Sends what a reading process finds; the head is sent with the first byte.

    So a process that fails at once has a status of its own. A later failure leaves the body
    unfinished, and uvicorn then closes the connection.
    """

    def __init__(
        self, found: AsyncGenerator[bytes, None], media_type: str, *, not_found: str | None = None
    ) -> None:
        """With `not_found`, answer 404 with this message if nothing is found."""
        super().__init__(found, media_type=media_type, headers=RESPONSE_HEADERS)
        self._found = found
        self._not_found = not_found

    async def stream_response(self, send: Send) -> None:
        body: dict[str, Any] = {"type": "http.response.body", "body": b"", "more_body": True}
        started = False
        async with aclosing(self._found) as found:
            try:
                async for data in found:
                    if not data:
                        continue
                    if not started:
                        await self._start(send)
                        started = True
                    await send(body | {"body": data})
            except (ReadingProcessError, TooManyReadersError, OSError) as exc:
                if started:
                    return
                is_full = isinstance(exc, TooManyReadersError)
                raise HTTPException(503, str(exc) if is_full else LOG_UNREADABLE) from exc
        if not started:
            if self._not_found:
                raise HTTPException(404, self._not_found)
            await self._start(send)
        await send(body | {"more_body": False})

    async def _start(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)


def parse_time(text: str) -> datetime:
    """Return the time that a day, or a date with a time, means; in UTC unless it says otherwise."""
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise ValueError("Input should be a day or a time, as in 2026-11-24T15:00Z") from exc


def parse_since(text: str) -> str:
    """Return the time as a timestamp of the log."""
    return format_timestamp(parse_time(text))


def parse_until(text: str) -> str:
    """Return the time as a timestamp of the log; for a day, the end of the day."""
    end = parse_time(text)
    if re.fullmatch(r"[\d-]+", text):
        end = min(end, datetime.max.replace(tzinfo=UTC) - ONE_DAY) + ONE_DAY
    return format_timestamp(end)


DAY_OR_TIME = WithJsonSchema(
    {"type": "string", "anyOf": [{"format": "date"}, {"format": "date-time"}]}
)
Timestamp = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class PeriodQuery(BaseModel):
    """When an entry was finished."""

    model_config = ConfigDict(extra="forbid")

    since: Annotated[str, AfterValidator(parse_since), DAY_OR_TIME] | None = Field(
        None, description="a day or a time; what was finished then or later"
    )
    until: Annotated[str, AfterValidator(parse_until), DAY_OR_TIME] | None = Field(
        None, description="a day, which is included, or a time, which is not"
    )


EXACT: tuple[str, ...] = ("status", "conversation")
PARTIAL: tuple[str, ...] = ("model", "endpoint", "client", "user_agent")
"""The parameters that are a value of an entry, and a part of one."""


class FilterQuery(PeriodQuery):
    """Which entries are wanted."""

    q: str = Field(
        "",
        max_length=1000,
        description='words that are all in the request or the answer; `"…"` keeps words together',
    )
    status: Status | None = Field(None, description="how the request ended")
    conversation: str | None = Field(None, description="the id of a conversation")
    model: str | None = Field(None, description="a part of the model's name")
    endpoint: str | None = Field(None, description="a part of the request's path")
    client: str | None = Field(None, description="a part of the client's address")
    user_agent: str | None = Field(None, description="a part of the client's name")

    def to_filter(self) -> Filter:
        """Return the filter that a reading process applies."""
        given = {key: value for key, value in self.model_dump().items() if value}
        exact, parts = (
            {key: str(given[key]) for key in keys if key in given} for keys in (EXACT, PARTIAL)
        )
        return Filter(self.q, exact, parts, self.since, self.until)


FIELDS = (*(field.name for field in dataclasses.fields(LogEntry)), "preview")


def split_names(text: str) -> list[str]:
    """Return the names in a list of them, separated by commas; none twice."""
    return list(dict.fromkeys(re.split(", ?", text))) if text else []


def check_fields(text: str) -> str:
    """Return the list of keys; raise ValueError if an entry does not have one of them."""
    if unknown := [name for name in split_names(text) if name not in FIELDS]:
        raise ValueError(f"Input should be keys of an entry, or preview; {unknown[0]!r} is unknown")
    return text


KEY = f"({'|'.join(FIELDS)})"
KEYS = WithJsonSchema({"type": "string", "pattern": f"^({KEY}(, ?{KEY})*)?$"})


ZONES = available_timezones()


def check_zone(name: str) -> str:
    """Return the name of a time zone; raise ValueError if there is none."""
    if name not in ZONES:
        raise ValueError("Input should be the IANA name of a time zone, as in Europe/Berlin")
    return name


ZONE = WithJsonSchema({"type": "string", "enum": sorted(ZONES)})


class FiguresQuery(FilterQuery):
    """Of which entries figures are wanted, and whose days."""

    tz: Annotated[str, AfterValidator(check_zone), ZONE] | None = Field(
        None, description="the time zone of days and hours; UTC if left out"
    )


class LogQuery(FilterQuery):
    """Which entries are wanted, how many, and what of them."""

    fields: Annotated[str, AfterValidator(check_fields), KEYS] | None = Field(
        None,
        description="the keys that are wanted, separated by commas; `preview` is the beginning of "
        "the prompt and of the answer, and the place where `q` matched",
        examples=["id,finished_at,model,preview"],
    )
    limit: int | None = Field(None, ge=1, le=1000, description="50, or all as JSON lines")
    before: str | None = Field(
        None, pattern=CURSOR, max_length=MAX_CURSOR, description="`next` of the page before"
    )


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


class LogPage(BaseModel):
    """Entries, newest first."""

    entries: list[Entry | dict[str, Any]] = Field(
        description="whole entries, or objects with the `fields` that were asked for"
    )
    count: int | None = Field(
        description="how many entries match in all, if the whole log has been read to its end"
    )
    next: str | None = Field(
        description="the `before` of the next page, if there is one",
        examples=[f"2026-11-24.8.{EXAMPLE_ENTRY.finished_at}~{EXAMPLE_ENTRY.id}"],
    )


class Count(BaseModel):
    """The last line of the response; those before it have `progress`, and the count so far."""

    count: int


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


LINES = {"schema": {"type": "string"}, "example": EXAMPLE_ENTRY.to_line().decode()}
TABLE = {"schema": {"type": "string"}, "example": "id,model\r\n3f0c9a52,tinyllama\r\n"}
COUNT = {"schema": {"$ref": "#/components/schemas/Count"}, "example": {"count": 0}}
FIGURES = {
    "schema": {"$ref": "#/components/schemas/Figures"},
    "example": {
        "since": EXAMPLE_ENTRY.finished_at,
        "until": EXAMPLE_ENTRY.finished_at,
        "bucket_seconds": 1,
        "entries": 0,
        "buckets": [],
        "models": [],
        "days": [],
        "clients": [],
        "slowest": [],
    },
}
router = APIRouter(
    dependencies=[Depends(check_log_key)],
    responses=describe_errors(400, 422, 503)
    | {401: describe_error(401, ERRORS[401][0], LOG_KEY_MISSING)},
    tags=["log"],
)


def start_job(
    request: Request,
    kind: Kind,
    filter: Filter,
    **more: Any,
) -> AsyncGenerator[bytes, None]:
    """Return what a reading process will find."""
    directory = str(request.state["settings"].log_dir)
    job = Job(kind, directory, filter, **more)
    return request.state["reading_processes"].read(job)


@router.get(
    "/log",
    response_class=StreamingResponse,
    responses={
        200: {
            "model": LogPage,
            "content": dict.fromkeys(JSON_LINES, LINES) | {"text/csv": TABLE},
        }
    },
)
async def find_entries(request: Request, query: Annotated[LogQuery, Query()]) -> StreamingResponse:
    """Find entries, newest first: a page of them as JSON, or all as JSON lines or as CSV.

    With `Accept: application/x-ndjson; profile=messages` the complete answers come as chat data,
    `{"messages": […]}` a line, as tools for fine-tuning and evaluation read it.
    """
    accept = request.headers.get("accept", "*/*")
    media_type = prefer(accept, KINDS, "application/json")
    kind, limit = KINDS[media_type], query.limit
    fields = split_names(query.fields) if query.fields else None
    if kind == "page":
        limit = limit or PAGE_LENGTH
    elif kind == "lines" and CHAT_PROFILE.search(accept):
        kind = "messages"
    found = start_job(
        request, kind, query.to_filter(), limit=limit, before=query.before, fields=fields
    )
    return FoundResponse(found, media_type)


@router.get(
    "/log/count",
    response_class=StreamingResponse,
    responses={200: {"model": Count, "content": {JSON_LINES[0]: COUNT}}},
)
async def count_entries(
    request: Request, query: Annotated[FilterQuery, Query()]
) -> StreamingResponse:
    """Count entries: JSON lines, the count so far before the one of all."""
    found = start_job(request, "count", query.to_filter())
    return FoundResponse(found, JSON_LINES[0])


@router.get(
    "/log/figures",
    response_class=StreamingResponse,
    responses={200: {"model": Figures, "content": {JSON_LINES[0]: FIGURES}}},
)
async def compute_figures(
    request: Request, query: Annotated[FiguresQuery, Query()]
) -> StreamingResponse:
    """Compute figures about speed and failures: JSON lines, progress before the figures."""
    found = start_job(request, "figures", query.to_filter(), tz=query.tz)
    return FoundResponse(found, JSON_LINES[0])


@router.get(
    "/log/{entry_id}",
    response_class=StreamingResponse,
    responses={200: {"model": Entry}, 404: describe_error(404, "No such entry", ENTRY_NOT_FOUND)},
)
async def find_entry(
    request: Request, entry_id: str, period: Annotated[PeriodQuery, Query()]
) -> StreamingResponse:
    """Find the entry of a request by its `X-Request-ID`; a period makes it faster."""
    filter = Filter(exact={"id": entry_id}, since=period.since, until=period.until)
    found = start_job(request, "entry", filter)
    return FoundResponse(found, "application/json", not_found=ENTRY_NOT_FOUND)
