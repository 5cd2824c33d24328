"""MiniVault: a local LLM's answers, every one of them kept in a log.

A prompt travels one way: request, service, chunks, response; and every chunk passes the recorder,
which ends only when the log has its entry. The two endpoints differ in how they hand the chunks
out. Whatever fails on the way raises, and one table here says which status that is.
"""

import asyncio
import gc
import json
import logging
import secrets
import signal
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from exchange import Chunk, Prompt
from formats import FORMATS, AnswerStream
from in_flight import InFlight, TooManyRequestsError
from llm_services import (
    BrokenAnswerError,
    DefaultModelNotFoundError,
    LLMServiceError,
    ModelNotFoundError,
    OllamaBusyError,
    OllamaUnreachableError,
    RequestRefusedError,
    TokenTimeoutError,
    create_llm_service,
)
from logger import JsonlLog, LogUnavailableError
from middleware import (
    REQUEST_ID,
    BodyLimitDetailMiddleware,
    HostMiddleware,
    RequestIDMiddleware,
)
from recorder import Recorder
from settings import Settings, load_settings

logger = logging.getLogger("uvicorn.error")


STATUS: dict[type[Exception], int] = {
    RequestRefusedError: 400,
    ModelNotFoundError: 404,
    ClientDisconnect: 499,  # nginx's number; nobody reads it
    BrokenAnswerError: 502,
    DefaultModelNotFoundError: 503,
    OllamaBusyError: 503,
    OllamaUnreachableError: 503,
    LogUnavailableError: 503,
    TooManyRequestsError: 503,
    TokenTimeoutError: 504,
}
RETRY_AFTER = {"Retry-After": "5"}


class Answer(BaseModel):
    """A whole answer."""

    response: str


class Health(BaseModel):
    """The service serves."""

    status: Literal["ok"] = "ok"


class Problem(BaseModel):
    """What happened and what to do about it."""

    detail: str


@dataclass(frozen=True)
class Exchange:
    """One request's recorder, and the chunks that pass it."""

    recorder: Recorder
    chunks: AsyncGenerator[Chunk, None]


async def authorize(
    request: Request,
    credentials: Annotated[
        HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))
    ],
) -> None:
    """Raise 401 unless the request carries the key that is set."""
    key = request.app.state.settings.api_key.get_secret_value()
    # header values are latin-1 to Starlette, whatever the client meant by its bytes
    given = credentials.credentials.encode("latin-1") if credentials else b""
    if not secrets.compare_digest(given, key.encode()):
        detail = "send the key that MINIVAULT_API_KEY sets, as `Authorization: Bearer <key>`"
        raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})


async def open_exchange(request: Request, prompt: Prompt) -> AsyncIterator[Exchange]:
    """Begin to answer the prompt; after the response, however it went, end what is left of it.

    Raises:
        LogUnavailableError: the log cannot be written, so nothing is asked of the service.
        TooManyRequestsError: the limit is reached.
    """
    state = request.state
    state.log.check()
    with state.in_flight.slot():
        recorder = Recorder(state.log, state.service, state.request_id, request.url.path)
        async with aclosing(recorder.record(prompt)) as chunks:
            yield Exchange(recorder, chunks)


CurrentExchange = Annotated[Exchange, Depends(open_exchange)]


@asynccontextmanager
async def cancelled_by_disconnect(request: Request) -> AsyncIterator[None]:
    """Cancel the block when the client leaves, and raise `ClientDisconnect`.

    Starlette does this for a StreamingResponse only.
    """

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    with anyio.CancelScope() as scope:
        watcher = asyncio.create_task(watch())
        try:
            yield
        finally:
            watcher.cancel()
    if scope.cancelled_caught:
        raise ClientDisconnect


answers = APIRouter(
    responses={
        status: {"model": Problem, "description": "See the README's table of errors"}
        for status in (400, 401, 404, 413, 502, 503, 504)
    }
)
probes = APIRouter()


@answers.post("/generate")
async def generate(request: Request, exchange: CurrentExchange) -> Answer:
    """Answer a prompt, whole."""
    async with cancelled_by_disconnect(request):
        return Answer(response="".join([chunk.response async for chunk in exchange.chunks]))


@answers.post(
    "/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {media_type: {} for media_type in FORMATS}}},
)
async def stream(request: Request, exchange: CurrentExchange) -> StreamingResponse:
    """Answer a prompt as the tokens come, in the format that `Accept` asks for."""
    accept = request.headers.get("accept", "*/*")
    return AnswerStream(exchange.chunks, exchange.recorder, accept)


@probes.get("/health")
async def health() -> Health:
    """Say that the process serves."""
    return Health()


@probes.get("/ready", responses={503: {"model": Problem}})
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
        raise HTTPException(503, "; ".join(missing), RETRY_AFTER)
    return Health()


async def report_error(request: Request, exc: Exception) -> Response:
    """Answer an error of the table with its status and its words."""
    status = STATUS[type(exc)]
    return JSONResponse({"detail": str(exc)}, status, RETRY_AFTER if status == 503 else None)


async def report_invalid(request: Request, exc: RequestValidationError) -> Response:
    """Answer 422 as FastAPI does, less the input.

    FastAPI's own handler answers 500 to an input that JSON cannot carry back: NaN, lone
    surrogates, nesting deeper than its encoder's.
    """
    detail = [{key: error[key] for key in ("type", "loc", "msg")} for error in exc.errors()]
    # a misspelt field's name can be no Unicode either: the standard encoder escapes it
    return Response(json.dumps({"detail": detail}), 422, media_type="application/json")


async def report_bug(request: Request, exc: Exception) -> Response:
    """Answer 500 in the shape of every error; the traceback goes to the server's own log."""
    detail = "an error inside MiniVault; its own output says more"
    headers = {REQUEST_ID: request.state.request_id}  # this answer passes no middleware
    return JSONResponse({"detail": detail}, 500, headers)


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
        JsonlLog(settings.log_dir, fsync=settings.log_fsync) as log,
        create_llm_service(settings) as service,
    ):
        gc.freeze()  # what is there by now stays: no collection has to look at it again
        logger.info("MiniVault answers from %s, logs in %s", service.llm_type, settings.log_dir)
        try:
            yield {"log": log, "service": service, "in_flight": in_flight}
        finally:
            await in_flight.finished()
    exit_with_zero()


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the app from the settings, the environment's where none are given."""
    settings = settings or load_settings()
    app = FastAPI(
        title="MiniVault",
        summary="A local LLM's answers, every one of them kept in a log.",
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.include_router(
        answers,
        dependencies=[Depends(authorize)] if settings.api_key else [],
        # on the router, not the app: there the 413 would pass no middleware
        max_body_size=settings.max_body_bytes,
    )
    app.include_router(probes)
    for error in STATUS:
        app.add_exception_handler(error, report_error)
    app.add_exception_handler(RequestValidationError, report_invalid)
    app.add_exception_handler(Exception, report_bug)
    app.add_middleware(BodyLimitDetailMiddleware, max_body_bytes=settings.max_body_bytes)
    if "*" not in settings.allowed_hosts:
        app.add_middleware(HostMiddleware, allowed_hosts=settings.allowed_hosts)
    app.add_middleware(RequestIDMiddleware)
    return app


app = create_app()
