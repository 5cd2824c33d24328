"""The log over HTTP: what may be asked of it, and how it is answered.

A reading process writes the answer's body; here it is passed on as fast as the client takes it.
The response's head leaves with the first byte, and a client that leaves ends the process.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.types import Send

from web.docs import ENTRY, REFUSALS, refusals, refused
from formats import NewlineDelimitedJson, negotiate
from log.entry import LogEntry, timestamp
from web.log_key import KEY_WANTED, authorize_reader, log_key
from log.processes import LogReaders, ReaderError
from settings import Settings

PAGE_LENGTH = 50
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
ONE_DAY = timedelta(days=1)
JSON_LINES = NewlineDelimitedJson.media_types
NO_ENTRY = "the log has no entry of this id"


class FoundResponse(StreamingResponse):
    """Sends what a reading process finds; its head leaves with the first byte.

    So a process that fails at once has a status code of its own. One that fails later leaves the
    body unfinished, which makes uvicorn close the connection.
    """

    def __init__(
        self, found: AsyncGenerator[bytes, None], media_type: str, *, needs_one: bool = False
    ) -> None:
        super().__init__(found, media_type=media_type, headers=HEADERS)
        self._found = found
        self._needs_one = needs_one

    async def stream_response(self, send: Send) -> None:
        body: dict[str, Any] = {"type": "http.response.body", "body": b"", "more_body": True}
        started = False
        async with aclosing(self._found) as found:
            try:
                async for data in found:
                    if not started:
                        await self._start(send)
                        started = True
                    await send(body | {"body": data})
            except (ReaderError, OSError) as exc:
                if started:
                    return
                detail = "the log cannot be read now; the service's own output says why"
                raise HTTPException(503, detail) from exc
        if not started:
            if self._needs_one:
                raise HTTPException(404, NO_ENTRY)
            await self._start(send)
        await send(body | {"more_body": False})

    async def _start(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)


def moment(text: str) -> datetime:
    """Return the moment that a day or a date with a time means, in UTC unless it says otherwise."""
    try:
        given = datetime.fromisoformat(text)
        return (given if given.tzinfo else given.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise ValueError("Input should be a day or a moment, as in 2026-11-24T15:00Z") from exc


def first_moment(text: str) -> str:
    """Return the moment as the log writes it."""
    return timestamp(moment(text))


def end_moment(text: str) -> str:
    """Return the moment as the log writes it; a day ends with its last moment."""
    end = moment(text)
    if re.fullmatch(r"[\d-]+", text):
        end = min(end, datetime.max.replace(tzinfo=UTC) - ONE_DAY) + ONE_DAY
    return timestamp(end)


DAY_OR_MOMENT = WithJsonSchema(
    {"type": "string", "anyOf": [{"format": "date"}, {"format": "date-time"}]}
)


class LogSpan(BaseModel):
    """When an entry was finished."""

    model_config = ConfigDict(extra="forbid")

    since: Annotated[str, AfterValidator(first_moment), DAY_OR_MOMENT] | None = Field(
        None, description="a day or a moment; what was finished then or later"
    )
    until: Annotated[str, AfterValidator(end_moment), DAY_OR_MOMENT] | None = Field(
        None, description="a day, which is included, or a moment, which is not"
    )


class LogFilter(LogSpan):
    """Which entries are meant."""

    q: str = Field("", max_length=1000, description="text in what was asked or answered")
    status: Literal["ok", "cancelled", "error"] | None = Field(None, description="how it ended")
    model: str | None = Field(None, description="the model that answered")
    endpoint: str | None = Field(None, description="the path that was asked")

    def filter(self) -> dict[str, Any]:
        """Return it as a reading process takes it."""
        exact = {"status": self.status, "model": self.model, "endpoint": self.endpoint}
        return {
            "q": self.q,
            "exact": {key: value for key, value in exact.items() if value},
            "since": self.since,
            "until": self.until,
        }


class LogQuery(LogFilter):
    """Which entries are meant, and how many."""

    limit: int | None = Field(None, ge=1, le=1000, description="50, or all as JSON lines")
    before: str | None = Field(
        None, pattern=r"^\d{4}-\d\d-\d\d\.\d{1,15}$", description="an earlier answer's `next`"
    )


@dataclass
class Entry(LogEntry):
    """One request and what came of it; the README says what the keys mean."""

    request: Any = None


class Found(BaseModel):
    """Entries, newest first."""

    entries: list[Entry]
    next: str | None = Field(
        description="what `before` takes to go on, where there are more", examples=["2026-11-24.8"]
    )


LINES = {"schema": {"type": "string"}, "example": ENTRY.line().decode()}
FIGURES = LINES | {
    "example": '{"progress":0.41}\n{"since":"2026-11-24T15:00:00Z","until":"2026-11-24T15:00:00Z",'
    '"bucket_seconds":1,"entries":0,"buckets":[],"models":[],"slowest":[]}\n'
}
NO_KEY = refused(401, REFUSALS[401][0], KEY_WANTED)
log = APIRouter(
    dependencies=[Depends(authorize_reader)],
    responses=refusals(400, 422, 503) | {401: NO_KEY},
    tags=["log"],
)


@asynccontextmanager
async def log_state(settings: Settings) -> AsyncIterator[dict[str, Any]]:
    """Have what the routes need, for the app's state."""
    async with LogReaders(settings.log_dir) as readers:
        yield {"log_key": log_key(settings), "log_readers": readers}


@log.get(
    "/log",
    response_class=StreamingResponse,
    responses={200: {"model": Found, "content": dict.fromkeys(JSON_LINES, LINES)}},
)
async def find_entries(request: Request, query: Annotated[LogQuery, Query()]) -> StreamingResponse:
    """Find entries, newest first: a page of them as JSON, or all as JSON lines."""
    media_type, _ = negotiate(request.headers.get("accept", "*/*"))
    job: dict[str, Any] = {"filter": query.filter(), "before": query.before}
    if media_type in JSON_LINES:
        job |= {"kind": "lines", "limit": query.limit}
    else:
        media_type = "application/json"
        job |= {"kind": "page", "limit": query.limit or PAGE_LENGTH}
    return FoundResponse(request.state.log_readers.read(job), media_type)


@log.get(
    "/log/figures",
    response_class=StreamingResponse,
    responses={200: {"content": {JSON_LINES[0]: FIGURES}}},
)
async def figures(request: Request, query: Annotated[LogFilter, Query()]) -> StreamingResponse:
    """Say what the log shows about speed and failures: JSON lines, progress before the figures."""
    job = {"kind": "figures", "filter": query.filter()}
    return FoundResponse(request.state.log_readers.read(job), "application/x-ndjson")


@log.get(
    "/log/{entry_id}",
    response_class=StreamingResponse,
    responses={200: {"model": Entry}, 404: refused(404, "No such entry", NO_ENTRY)},
)
async def find_entry(
    request: Request, entry_id: str, span: Annotated[LogSpan, Query()]
) -> StreamingResponse:
    """Find the entry of a request by its `X-Request-ID`; sooner where it is said when."""
    filter = {"exact": {"id": entry_id}, **span.model_dump()}
    job: dict[str, Any] = {"kind": "lines", "filter": filter, "limit": 1}
    found = request.state.log_readers.read(job)
    return FoundResponse(found, "application/json", needs_one=True)
