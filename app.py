"""MiniVault: a local LLM's answers, every one of them kept in a log.

A prompt travels one way: request, service, chunks, response; and every chunk passes the recorder,
which lets go of the last one only when the log has its entry. The endpoints differ in how they hand
the chunks out. Whatever fails on the way raises, and one table here says which status that is.
"""

import gc
import json
import logging
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from gateway import routes as gateway
from web import log_routes
from telemetry import metrics
from web.page import front, page_files
from web.client import ClientMiddleware
from web.docs import (
    MAX_PROBLEMS,
    MEASURED,
    STREAMED,
    DocumentedAPI,
    documentation,
    refusals,
    swagger_files,
)
from messages import Asked, Prompt
from formats import AnswerStream, negotiate
from in_flight import InFlight, TooManyRequestsError
from web.keys import KeyedRoute
from llm_services import (
    BrokenAnswerError,
    DefaultModelNotFoundError,
    LLMServiceError,
    ModelNotFoundError,
    RequestRefusedError,
    ServiceBusyError,
    ServiceLoopError,
    ServiceUnreachableError,
    TokenTimeoutError,
    create_llm_service,
)
from logger import JsonlLog, LogUnavailableError
from web.middleware import (
    REQUEST_ID,
    BodyLimitDetailMiddleware,
    HostMiddleware,
    RequestIDMiddleware,
    refuse,
)
from recorder import Recording, recording
from settings import Settings, load_settings

diagnostics = logging.getLogger("uvicorn.error")

STATUS: dict[type[Exception], int] = {
    RequestRefusedError: 400,
    ModelNotFoundError: 404,
    ClientDisconnect: 499,  # nginx's number; nobody reads it
    BrokenAnswerError: 502,
    LLMServiceError: 502,
    DefaultModelNotFoundError: 503,
    ServiceBusyError: 503,
    ServiceUnreachableError: 503,
    LogUnavailableError: 503,
    metrics.NotSharedError: 503,
    TooManyRequestsError: 503,
    TokenTimeoutError: 504,
    ServiceLoopError: 508,
}


class Answer(BaseModel):
    """A whole answer."""

    response: str = Field(examples=["Blue light scatters most."])


class Health(BaseModel):
    """The service serves."""

    status: Literal["ok"] = "ok"


async def open_recording(request: Request, prompt: Prompt) -> AsyncIterator[Recording]:
    """Begin to answer the prompt; after the response, however it went, end what is left of it."""
    service = request.state.service
    asked = Asked(**{"model": service.model, **prompt.model_dump(exclude_none=True)})
    async with recording(request, asked, service.stream(prompt)) as current:
        yield current


CurrentRecording = Annotated[Recording, Depends(open_recording)]


async def whole(current: Recording) -> Answer:
    """Return the answer when all of its chunks are there."""
    return Answer(
        response="".join([text async for chunk in current.chunks for text in chunk.response])
    )


answers = APIRouter(
    route_class=KeyedRoute,
    responses=refusals(400, 401, 404, 413, 422, 502, 503, 504, 508),
    tags=["answers"],
)
probes = APIRouter(responses=refusals(400), tags=["probes"])


@answers.post("/generate")
async def generate(request: Request, current: CurrentRecording) -> Answer:
    """Answer a prompt, whole."""
    answer: Answer | None = await request.state.client.while_present(
        request.receive, whole(current)
    )
    if answer is None:
        raise ClientDisconnect
    return answer


@answers.post(
    "/stream",
    response_class=StreamingResponse,
    responses={200: STREAMED},
)
async def stream(request: Request, current: CurrentRecording) -> AnswerStream:
    """Answer a prompt as the tokens come, in the format that `Accept` asks for."""
    media_type, format = negotiate(request.headers.get("accept", "*/*"))
    return AnswerStream(current, request.state.client, format, media_type)


@probes.head("/health", include_in_schema=False)
@probes.get("/health")
async def health() -> Health:
    """Say that the process serves."""
    return Health()


@probes.head("/ready", include_in_schema=False)
@probes.get("/ready", responses=refusals(503))
async def ready(request: Request) -> Health:
    """Say whether a prompt would be answered and logged now; 503 with what is missing."""
    missing = []
    try:
        request.state.log.check()
    except LogUnavailableError as exc:
        missing.append(str(exc))
    try:
        await request.state.service.check()
    except LLMServiceError as exc:
        missing.append(str(exc))
    if missing:
        raise HTTPException(503, "; ".join(missing))
    return Health()


@probes.get("/metrics", response_class=Response, responses={**refusals(503), 200: MEASURED})
def metrics_page(request: Request) -> Response:
    """Say what Prometheus wants to know."""
    metrics.LOG_SECONDS.set(request.state.log.seconds_since_writable)
    content, content_type = metrics.exposition(request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": content_type})


def print_failure(request: Request, status: int, exc: Exception) -> None:
    """Print a line; not the error's words, as they may quote the prompt."""
    id, kind = request.state.request_id, type(exc).__name__
    diagnostics.warning("request %s failed with %d, %s", id, status, kind)


async def report_error(request: Request, exc: Exception) -> Response:
    """Answer an error of the table with its status and its words."""
    status = next(STATUS[kind] for kind in type(exc).__mro__ if kind in STATUS)
    if not isinstance(exc, ClientDisconnect):
        print_failure(request, status, exc)
    return refuse(request.scope, status, str(exc))


async def report_http(request: Request, exc: HTTPException) -> Response:
    """Answer what is refused before anything is asked: no key, no such path."""
    return refuse(request.scope, exc.status_code, exc.detail, exc.headers)


async def report_invalid(request: Request, exc: RequestValidationError) -> Response:
    """Answer 422 as FastAPI does, less the input.

    FastAPI's own handler answers 500 to an input that JSON cannot carry back: NaN, lone
    surrogates, nesting deeper than its encoder's.
    """
    problems = exc.errors()
    detail = [{key: each[key] for key in ("type", "loc", "msg")} for each in problems]
    if len(detail) > MAX_PROBLEMS:
        more = f"{len(detail) - MAX_PROBLEMS} further errors are left out"
        detail[MAX_PROBLEMS:] = [{"type": "too_many_errors", "loc": ["body"], "msg": more}]
    if isinstance(exc.body, bytes):  # it was not read as JSON
        hint = "send `Content-Type: application/json`"
        detail = [{"type": "content_type", "loc": ["header", "content-type"], "msg": hint}]
    # a misspelt field's name can be no Unicode either: the standard encoder escapes it
    return Response(json.dumps({"detail": detail}), 422, media_type="application/json")


async def report_bug(request: Request, exc: Exception) -> Response:
    """Answer 500 in the shape of every error; the traceback goes to the server's own log."""
    print_failure(request, 500, exc)
    detail = "an error inside MiniVault; its own output says more"
    headers = {REQUEST_ID: request.state.request_id}  # this answer passes no middleware
    return refuse(request.scope, 500, detail, headers)


def exit_with_zero() -> None:
    """Let a SIGTERM that stopped uvicorn end in exit status 0.

    After a graceful stop uvicorn raises the signal once more under the handler that was there
    before its own (`Server.capture_signals`), and the default one kills. Blocked, it stays pending.
    """
    under_uvicorn = callable(signal.getsignal(signal.SIGTERM))
    if under_uvicorn and threading.current_thread() is threading.main_thread():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Open the log and the service for the life of the process; close them when all is answered."""
    settings: Settings = app.state.settings
    in_flight = InFlight(settings.max_concurrency)
    async with (
        JsonlLog(
            settings.log_dir,
            fsync=settings.log_fsync,
            timeout=settings.log_timeout,
            keep_texts=settings.log_content == "full",
            retention_days=settings.log_retention_days,
        ) as log,
        create_llm_service(settings) as service,
        log_routes.log_state(settings) as log_state,
    ):
        metrics.forget_ended_workers()
        gc.freeze()  # what is there by now stays: no collection has to look at it again
        diagnostics.info(
            "MiniVault answers from %s, logs in %s", service.llm_type, settings.log_dir
        )
        try:
            yield {"log": log, "service": service, "in_flight": in_flight, **log_state}
        finally:
            await in_flight.finished()
            metrics.forget_ended_workers(this_one=True)
    exit_with_zero()


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the app from the settings, the environment's where none are given."""
    settings = settings or load_settings()
    app = DocumentedAPI(
        title="MiniVault",
        summary="A local LLM's answers, every one of them kept in a log.",
        docs_url=None,  # `documentation` has it
        redoc_url=None,
        lifespan=lifespan,
        # traces alone: metrics are at /metrics, and what is wrong with a body may quote it
        telemetry={"metrics": False, "logs": False, "operation_spans": False},
    )
    app.state.settings = settings
    # on the routers, not the app: there the 413 would pass no middleware
    app.include_router(answers, max_body_size=settings.max_body_bytes)
    if settings.gateway:  # early: routes are tried in turn, and most requests are answers
        app.include_router(gateway.router, max_body_size=settings.max_body_bytes)
    app.include_router(probes)
    app.include_router(log_routes.log)
    app.include_router(documentation)
    app.mount("/docs", swagger_files)
    app.include_router(front)
    app.mount("/page", page_files)
    for error in STATUS:
        app.add_exception_handler(error, report_error)
    app.add_exception_handler(StarletteHTTPException, report_http)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, report_invalid)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, report_bug)
    app.add_middleware(BodyLimitDetailMiddleware, max_body_bytes=settings.max_body_bytes)
    if "*" not in settings.allowed_hosts:
        app.add_middleware(HostMiddleware, allowed_hosts=settings.allowed_hosts)
    app.add_middleware(ClientMiddleware, timeout=settings.client_timeout)
    app.add_middleware(RequestIDMiddleware)
    return app


app = create_app()
