"""What a request finds in its state: what the process has, and what the middleware adds."""

from collections.abc import Callable
from typing import TypedDict

from starlette.requests import Request as StarletteRequest

from llm_services import LLMService
from log.processes import ReadingProcesses
from logger import JsonlLog
from recorder import Recorder
from settings import Settings
from web.client import Client


class ProcessState(TypedDict):
    """What lives as long as the process; the lifespan makes it."""

    settings: Settings
    log: JsonlLog
    service: LLMService
    recorder: Recorder
    reading_processes: ReadingProcesses
    log_key: str
    status_of: Callable[[Exception], int]
    """The HTTP status of an error, by the table of the app."""


class State(ProcessState):
    """The state of one request."""

    request_id: str
    client: Client
    hold_bytes: Callable[[int], bool]
    """Counts bytes that are held until the response has been sent, if there is room for them."""
    is_forwarded: bool
    """Whether the response is Ollama's own; it stays as it is."""


class Request(StarletteRequest[State]):
    """A request with typed state: FastAPI does not accept `Request[State]` as an annotation."""
