"""The documentation: its page, which needs no other host, and what OpenAPI says beyond FastAPI.

Examples are made by the code that makes the answers, so they cannot differ from these.
"""

import re
from base64 import b64encode
from hashlib import sha256
from itertools import chain
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from web.page import HEADERS, PageFiles
from messages import Chunk
from formats import FORMATS, Format
from web.keys import KEY_SCHEMES, KEY_WANTED
from log.entry import LogEntry
from web.middleware import REQUEST_ID
from protocols.base import refusal

POLICY = (
    "default-src 'none'; script-src 'self' 'sha256-{}'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MAX_PROBLEMS = 10
"""How many faults of a request a 422 names."""

ENTRY = LogEntry(
    id="3f0c9a52-6f0e-4d6c-9a57-0a8f1c1f7b1e",
    started_at="2026-11-24T15:00:00.000000Z",
    finished_at="2026-11-24T15:00:00.412700Z",
    duration_ms=412.7,
    endpoint="/stream",
    llm_type="ollama",
    model="tinyllama",
    status="ok",
    prompt="Why is the sky blue?",
    system=None,
    options={"temperature": 0.2},
    format=None,
    think=None,
    response="Blue light scatters most.",
    thinking=None,
    error=None,
    ttft_ms=87.2,
    prompt_tokens=12,
    response_tokens=6,
    finish_reason="stop",
    client="127.0.0.1",
    user_agent="curl/8.14.1",
    prompt_chars=20,
    response_chars=25,
)

REFUSALS = {
    400: (
        "A `Host` that is not allowed, a body that cannot be parsed, or Ollama refuses the request",
        "There was an error parsing the body",
    ),
    401: (
        "No key, or a wrong one",
        KEY_WANTED,
    ),
    403: (
        "That is done at Ollama itself",
        "GET /v1/models/../x is not passed on: do that at Ollama itself, http://localhost:11434",
    ),
    404: (
        "The model that the request named is not there",
        "model 'llama3' is not there; get it with `ollama pull llama3`",
    ),
    413: (
        "The body is too large",
        "the request body is larger than 20971520 bytes; shorten it, or raise "
        "MINIVAULT_MAX_BODY_BYTES",
    ),
    502: (
        "Ollama broke off, failed, or did not speak its protocol",
        "Ollama failed: unexpected EOF",
    ),
    503: (
        "Too many in flight; Ollama busy, out of reach or without its default model; the log "
        "cannot be written or read; or the service stops",
        "256 generations are in flight, the limit that MINIVAULT_MAX_CONCURRENCY sets; "
        "try again later",
    ),
    504: (
        "No first token, or no next one, in time",
        "Ollama sent no first token within 300 s; MINIVAULT_FIRST_TOKEN_TIMEOUT sets how long to "
        "wait",
    ),
    508: (
        "MiniVault is in front of itself",
        "MiniVault is in front of itself: MINIVAULT_OLLAMA_BASE_URL leads back here",
    ),
}
"""When a request is refused with which status, and an example of the words."""

REQUEST_ID_HEADER = {
    "description": "The request's id, and that of its log entry if it has one",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
}
MORE_HEADERS = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}},
    503: {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}},
}


class Problem(BaseModel):
    """What happened and what to do about it."""

    detail: str


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description="pydantic's name for it", examples=["extra_forbidden"])
    loc: list[str | int] = Field(description="where it is", examples=[["body", "temprature"]])
    msg: str = Field(examples=["Extra inputs are not permitted"])


class Faults(BaseModel):
    """What is wrong with a request; a last one says how many more there are. Never the input."""

    detail: list[Fault] = Field(max_length=MAX_PROBLEMS + 1)


class OllamaProblem(BaseModel):
    """An error as Ollama puts it."""

    error: str


class OpenAIError(BaseModel):
    """What happened, and its kind."""

    message: str
    type: str
    param: Any = None
    code: Any = None


class OpenAIProblem(BaseModel):
    """An error as OpenAI puts it."""

    error: OpenAIError


class AnthropicError(BaseModel):
    """What happened, and its kind."""

    type: str
    message: str


class AnthropicProblem(BaseModel):
    """An error as Anthropic puts it."""

    type: str
    error: AnthropicError


INTERFACES: dict[str, tuple[type[BaseModel], str]] = {
    "/v1/messages": (AnthropicProblem, "https://platform.claude.com/docs/en/api/messages"),
    "/v1/": (OpenAIProblem, "https://platform.openai.com/docs/api-reference"),
    "/api/": (OllamaProblem, "https://docs.ollama.com/api"),
    "/": (Problem, ""),
}
"""By the beginning of a path: what an error looks like, and where the interface is described."""


def interface(path: str) -> tuple[type[BaseModel], str]:
    """Return what is said of the interface under the path."""
    return next(said for prefix, said in INTERFACES.items() if path.startswith(prefix))


def refused(status: int, description: str, words: str, path: str = "/") -> dict[str, Any]:
    """Return what OpenAPI says of one status, in the shape of the interface under the path."""
    return {
        "model": interface(path)[0],
        "description": description,
        "content": {"application/json": {"example": refusal(path, status, words)}},
        "headers": MORE_HEADERS.get(status, {}),
    }


def refusals(*statuses: int, path: str = "/") -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of these statuses of the table, or of a 422."""
    return {
        status: {"model": Faults} if status == 422 else refused(status, *REFUSALS[status], path)
        for status in statuses
    }


def passed_on(path: str, summary: str, *, has_body: bool) -> dict[str, Any]:
    """Return what OpenAPI says of a route whose answers are Ollama's."""
    of_path = {"in": "path", "required": True, "schema": {"type": "string"}}
    more: dict[str, Any] = {
        "externalDocs": {"url": interface(path)[1]},
        "parameters": [{"name": name, **of_path} for name in re.findall(r"{(\w+)", path)],
    }
    if has_body:
        more["requestBody"] = {"content": {"application/json": {"schema": {}}}}
    return {
        "summary": summary,
        "response_description": "Ollama's own answer, unchanged",
        "responses": {
            **refusals(400, 401, 413, 502, 503, 504, 508, path=path),
            "default": {"description": "Ollama's own answer, unchanged, of whatever status"},
        },
        "openapi_extra": more,
    }


def streamed(format: Format) -> dict[str, Any]:
    """Return what OpenAPI says of a whole answer in this format."""
    chunks = [Chunk(["Blue light"]), Chunk([" scatters most."])]
    body = b"".join(map(format.chunk, chunks)) + format.done(ENTRY)
    return {"schema": {"type": "string"}, "example": body.decode()}


STREAMED = {
    "description": (
        "The answer as it comes. One that fails after its first byte ends with `event: error`, or "
        "a line with `error`; plain text breaks off, and so does its connection"
    ),
    "content": {media_type: streamed(format) for media_type, format in FORMATS.items()},
}
METRIC = {"schema": {"type": "string"}, "example": "minivault_requests_in_flight 3.0\n"}
MEASURED = {"content": {"text/plain": METRIC, "application/openmetrics-text": METRIC}}


class DocumentedAPI(FastAPI):
    """FastAPI, whose document also has the header of every answer, and the key."""

    def openapi(self) -> dict[str, Any]:
        is_new = not self.openapi_schema
        document = super().openapi()
        if is_new:
            document["components"]["securitySchemes"] |= KEY_SCHEMES
            document["components"]["headers"] = {REQUEST_ID: REQUEST_ID_HEADER}
            # here, as FastAPI leaves out what is null
            document["components"]["schemas"]["Entry"]["examples"] = [from_json(ENTRY.line())]
            for operation in chain(*map(dict.values, document["paths"].values())):
                for answer in operation["responses"].values():
                    reference = {"$ref": f"#/components/headers/{REQUEST_ID}"}
                    answer.setdefault("headers", {})[REQUEST_ID] = reference
        return document


swagger_files = PageFiles(packages=[("fastapi_swagger", "resources")])
documentation = APIRouter()


@documentation.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
async def docs(request: Request) -> Response:
    """Answer FastAPI's documentation page, with the files that are here."""
    root = request.scope.get("root_path", "").rstrip("/")
    page = get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="MiniVault",
        swagger_js_url=f"{root}/docs/swagger-ui-bundle.js",
        swagger_css_url=f"{root}/docs/swagger-ui.css",
        swagger_favicon_url=f"{root}/docs/favicon-32x32.png",
        swagger_ui_parameters={"tryItOutEnabled": True},
    )
    script = bytes(page.body).rpartition(b"<script>")[2].partition(b"</script>")[0]
    known = b64encode(sha256(script).digest()).decode()
    page.headers.update({**HEADERS, "Content-Security-Policy": POLICY.format(known)})
    return page
