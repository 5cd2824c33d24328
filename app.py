"""MiniVault: a local LLM's answers, every one of them kept in a log.

A prompt travels one way: request, service, chunks, response; and every chunk passes the recorder,
which hands on the last one only when the log has its entry. The endpoints differ in how they send
the chunks. Whatever fails on the way raises, and one table here says which status that is.

`python app.py` runs it, with uvicorn's own options behind it.
"""

import signal

import sys

if __name__ in ("__main__", "__mp_main__"):
    # After a second signal uvicorn raises SIGTERM at once, before the entries are written; under
    # the default handler that would be the end. (The other name is that of a worker.)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())

if __name__ == "__main__":
    # Ctrl-C during the imports ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.flags.safe_path:  # then Python itself does not look for modules beside this file
        sys.path.insert(0, __file__.rpartition("/")[0] or ".")

import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from formats import AnswerStream, negotiate
from gateway.cors import CORSMiddleware
from gateway.routes import create_router
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
from log.daily_file import measure_log
from log.processes import ReadingProcesses
from logger import JsonlLog, LogUnavailableError
from messages import LoggedRequest, Prompt
from recorder import Recorder, Recording, TooManyRequestsError
from settings import VERSION, Settings, load_settings
from telemetry import metrics, tracing
from telemetry.output import prepare_loggers
from web import docs, live_routes, log_routes, page
from web.client import ClientMiddleware
from web.keys import get_log_key
from web.middleware import (
    REQUEST_ID,
    BodyLimitMiddleware,
    HostMiddleware,
    MessageMiddleware,
    RequestIDMiddleware,
    StopMiddleware,
    error_response,
)
from web.prompt_route import PromptRoute
from web.server import (
    exit_with_zero,
    print_what_is_missing,
    return_large_blocks,
    serve,
    stop_with_parent,
)
from web.state import ProcessState, Request

diagnostics = logging.getLogger("minivault")

STATUS: dict[type[Exception], int] = {
    RequestRefusedError: 400,
    ModelNotFoundError: 404,
    ClientDisconnect: 499,  # nginx's number; the client is gone
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
    """A complete answer."""

    response: str = Field(examples=["Blue light scatters most."])


class Health(BaseModel):
    """The service is up."""

    status: Literal["ok"] = "ok"


async def open_recording(request: Request, prompt: Prompt) -> AsyncIterator[Recording]:
    """Begin to answer the prompt; after the response, end what is left of the answer."""
    state = request.state
    service = state["service"]
    path = request.scope["route"].path
    asked = {"model": service.model, **prompt.model_dump(exclude_none=True)}
    logged = LoggedRequest(**asked, streamed=path == "/stream")
    with state["recorder"].admit():
        async with state["recorder"].record(
            logged,
            service.stream(prompt),
            state["client"],
            id=state["request_id"],
            endpoint=path,
        ) as recording:
            yield recording


CurrentRecording = Annotated[Recording, Depends(open_recording)]


async def collect_answer(recording: Recording) -> Answer:
    """Return the answer when all of its chunks have arrived."""
    texts = [text async for chunk in recording.chunks for text in chunk.response]
    return Answer(response="".join(texts))


answers = APIRouter(
    route_class=PromptRoute,
    responses=docs.describe_errors(400, 401, 404, 413, 422, 502, 503, 504, 508),
    tags=["answers"],
)
probes = APIRouter(responses=docs.describe_errors(400), tags=["probes"])


@answers.post("/generate")
async def generate(request: Request, recording: CurrentRecording) -> Answer:
    """Answer a prompt as a whole."""
    client = request.state["client"]
    answer = await client.run_while_connected(request.receive, collect_answer(recording))
    if answer is None:
        raise ClientDisconnect
    return answer


@answers.post("/stream", response_class=StreamingResponse, responses={200: docs.STREAM})
async def stream(request: Request, recording: CurrentRecording) -> AnswerStream:
    """Answer a prompt as the tokens arrive, in the format that `Accept` asks for."""
    media_type, format = negotiate(request.headers.get("accept", "*/*"))
    client = request.state["client"]
    return AnswerStream(recording.chunks, client, format, media_type, recording=recording)


@probes.head("/health", include_in_schema=False)
@probes.get("/health")
async def check_health(response: Response) -> Health:
    """Tell that the process is up; a header says which version it is."""
    response.headers["X-MiniVault-Version"] = VERSION
    return Health()


@probes.head("/ready", include_in_schema=False)
@probes.get("/ready", responses=docs.describe_errors(503))
async def check_readiness(request: Request) -> Health:
    """Tell whether a prompt would be answered and logged now; 503 says what is missing."""
    missing = []
    try:
        request.state["log"].check()
    except LogUnavailableError as exc:
        missing.append(str(exc))
    try:
        await request.state["service"].check()
    except LLMServiceError as exc:
        missing.append(str(exc))
    if missing:
        raise HTTPException(503, "; ".join(missing))
    return Health()


@probes.get(
    "/metrics",
    response_class=Response,
    responses={**docs.describe_errors(503), 200: docs.METRICS},
)
def get_metrics(request: Request) -> Response:
    """Return the metrics for Prometheus."""
    log = request.state["log"]
    metrics.LOG_SECONDS.set(log.seconds_since_writable)
    metrics.LOG_WAITING.set(log.waiting)
    with suppress(OSError):
        usage = measure_log(request.state["settings"].log_dir)
        metrics.LOG_SIZE.set(usage.size)
        metrics.LOG_FREE.set(usage.free)
    content, content_type = metrics.exposition(request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": content_type})


def status_of(exc: Exception) -> int:
    """Return the HTTP status of an error, by its class or the nearest base that the table has."""
    return next((STATUS[kind] for kind in type(exc).__mro__ if kind in STATUS), 500)


def print_failure(request: Request, status: int, exc: Exception) -> None:
    """Print a line, without the error's message, as that may quote the prompt."""
    id, kind = request.state["request_id"], type(exc).__name__
    diagnostics.warning("request %s failed with %d: %s", id, status, kind)


async def handle_error(request: Request, exc: Exception) -> Response:
    """Answer an error of the table with its status and its message."""
    status = status_of(exc)
    if not isinstance(exc, ClientDisconnect):
        print_failure(request, status, exc)
    return error_response(request.scope, status, str(exc))


async def handle_http_error(request: Request, exc: HTTPException) -> Response:
    """Answer what is refused before the service is asked: no key, no such path."""
    return error_response(request.scope, exc.status_code, exc.detail, exc.headers)


async def handle_invalid_request(request: Request, exc: RequestValidationError) -> Response:
    """Answer 422 as FastAPI does, without the input.

    FastAPI's own handler answers 500 to an input that JSON cannot carry back: NaN
    (https://github.com/fastapi/fastapi/issues/459), lone surrogates, nesting deeper than its
    encoder's.
    """
    metrics.REFUSED.labels(422).inc()
    problems = exc.errors()
    detail = [{key: each[key] for key in ("type", "loc", "msg")} for each in problems]
    if len(detail) > docs.MAX_PROBLEMS:
        message = f"{len(detail) - docs.MAX_PROBLEMS} more problems are not listed"
        detail[docs.MAX_PROBLEMS :] = [{"type": "too_many_errors", "loc": ["body"], "msg": message}]
    if isinstance(exc.body, bytes):  # FastAPI did not read it as JSON
        message = "send `Content-Type: application/json`"
        detail = [{"type": "content_type", "loc": ["header", "content-type"], "msg": message}]
    # the name of an unknown field may be no Unicode either: the standard encoder escapes it
    return Response(json.dumps({"detail": detail}), 422, media_type="application/json")


async def handle_bug(request: Request, exc: Exception) -> Response:
    """Answer 500 in the shape of every error; uvicorn prints the traceback."""
    print_failure(request, 500, exc)
    message = "internal error; see MiniVault's own output"
    headers = {REQUEST_ID: request.state["request_id"]}  # this response passes no middleware
    return error_response(request.scope, 500, message, headers)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[ProcessState]:
    """Open the log and the service for the life of the process; close them when all is answered."""
    settings: Settings = app.state.settings
    prepare_loggers()
    print_what_is_missing()
    stop_with_parent()
    async with (
        JsonlLog(
            settings.log_dir,
            fsync=settings.log_fsync,
            timeout=settings.log_timeout,
            keep_texts=settings.log_content == "full",
            retention_days=settings.log_retention_days,
        ) as log,
        create_llm_service(settings) as service,
    ):
        metrics.forget_ended_workers()
        recorder = Recorder(log, service.llm_type, settings.max_concurrency, service.address)
        return_large_blocks()
        gc.freeze()  # what exists by now lasts: no collection has to look at it again
        log_source = settings.log_source or settings.log_dir
        diagnostics.info("answers come from %s; the log is in %s", service.source, log_source)
        try:
            yield ProcessState(
                settings=settings,
                log=log,
                service=service,
                recorder=recorder,
                reading_processes=ReadingProcesses(),
                log_key=get_log_key(settings),
                status_of=status_of,
            )
        except asyncio.CancelledError:
            pass  # a second signal cancels this too; what follows is done all the same
        finally:
            await recorder.wait_until_idle()
            metrics.forget_ended_workers(this_one=True)
    exit_with_zero()


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the app from the settings; from those of the environment if none are given."""
    settings = settings or load_settings()
    app = docs.DocumentedAPI(
        title="MiniVault",
        version=VERSION,
        summary="A local LLM's answers, every one of them kept in a log.",
        description=docs.describe_gateway() if settings.gateway else "",
        docs_url=None,  # `docs.router` has it
        redoc_url=None,
        generate_unique_id_function=docs.operation_id,
        lifespan=lifespan,
        # traces alone: metrics are at /metrics, and what is wrong with a body may quote it
        telemetry={
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "exclude": tracing.is_probe,
        },
    )
    app.state.settings = settings
    # on the routers, not the app: there the 413 would pass no middleware
    if settings.llm_service != "none":
        app.include_router(answers, max_body_size=settings.max_prompt_bytes)
    if (
        settings.gateway and settings.llm_service != "none"
    ):  # early: routes are tried in turn, and most requests are for answers
        router = create_router(settings)
        app.include_router(router, max_body_size=settings.max_body_bytes)
    app.include_router(probes)
    app.include_router(live_routes.router)  # before the route that takes any id
    app.include_router(log_routes.router)
    app.include_router(docs.router)
    app.mount("/docs", docs.swagger_files)
    app.include_router(page.router)
    app.mount("/page", page.page_files)
    for error in STATUS:
        app.add_exception_handler(error, handle_error)  # type: ignore[arg-type]
    app.add_exception_handler(StarletteHTTPException, handle_http_error)  # type: ignore[arg-type]
    app.add_exception_handler(
        RequestValidationError, handle_invalid_request  # type: ignore[arg-type]
    )
    app.add_exception_handler(Exception, handle_bug)  # type: ignore[arg-type]
    app.add_middleware(
        BodyLimitMiddleware,
        max_buffered_bytes=settings.max_buffered_bytes,
        limits={
            "MINIVAULT_MAX_PROMPT_BYTES": settings.max_prompt_bytes,
            "MINIVAULT_MAX_BODY_BYTES": settings.max_body_bytes,
        },
    )
    if "*" not in settings.allowed_hosts:
        app.add_middleware(HostMiddleware, allowed_hosts=settings.allowed_hosts)
    app.add_middleware(StopMiddleware)
    app.add_middleware(CORSMiddleware, origins=sorted(settings.ollama_origins))
    app.add_middleware(ClientMiddleware, timeout=settings.client_timeout)
    app.add_middleware(MessageMiddleware)
    app.add_middleware(RequestIDMiddleware)
    return app


if __name__ == "__main__":
    serve(load_settings(), sys.argv[1:])
elif __name__ != "__mp_main__":  # in a worker, a copy of `__main__` beside `app`
    app = create_app()
