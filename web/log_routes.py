"""The log over HTTP.

A reading process writes the body of a response, which is sent on as fast as the client reads it.
The head is sent with the first byte; a client that leaves ends the process.
"""

import os
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi.responses import StreamingResponse
from starlette.types import Send

from formats import NewlineDelimitedJson, prefer
from log.filter import Filter
from log.processes import ReadingProcessError, TooManyReadersError
from log.worker import Job, Kind
from web.docs import ERRORS, EXAMPLE_ENTRY, describe_error, describe_errors
from web.keys import LOG_KEY_MISSING, check_log_key
from web.log_models import Count, Entry, Figures, LogPage
from web.log_queries import FiguresQuery, FilterQuery, LogQuery, PeriodQuery, split_names
from web.state import Request

PAGE_LENGTH = 50
RESPONSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
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
STORE_UNREADABLE = {
    os.EX_UNAVAILABLE: "the store of the log, MINIVAULT_LOG_SOURCE, cannot be read now, or not "
    "whole; see MiniVault's own output for the reason",
    os.EX_NOPERM: "the store of the log, MINIVAULT_LOG_SOURCE, refuses MiniVault's credentials; "
    "check them, as AWS_ACCESS_KEY_ID, and what they may read",
}
"""By the exit status of a reading process."""

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
                raise HTTPException(503, describe_failure(exc)) from exc
        if not started:
            if self._not_found:
                raise HTTPException(404, self._not_found)
            await self._start(send)
        await send(body | {"more_body": False})

    async def _start(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)


def describe_failure(exc: Exception) -> str:
    """Return why the log could not be read, and what to do."""
    if isinstance(exc, TooManyReadersError):
        return str(exc)
    status = exc.status if isinstance(exc, ReadingProcessError) else None
    return STORE_UNREADABLE.get(status or 0, LOG_UNREADABLE)


LINES = {"schema": {"type": "string"}, "example": EXAMPLE_ENTRY.to_line().decode()}
TABLE = {"schema": {"type": "string"}, "example": "id,model\r\n3f0c9a52,tinyllama\r\n"}
COUNT = {
    "schema": {"$ref": "#/components/schemas/Count"},
    "example": {"count": 0, "warnings": []},
}
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
        "warnings": [],
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
    settings = request.state["settings"]
    job = Job(kind, str(settings.log_dir), filter, settings.log_source, **more)
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
        if fields:
            raise HTTPException(422, "chat data has no fields; leave `fields` out")
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
