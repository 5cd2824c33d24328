"""The documentation at `/docs`, which needs no other host, and what OpenAPI says beyond FastAPI.

Examples are made by the code that makes the answers, so they cannot differ from these.
"""

import json
from base64 import b64encode
from hashlib import sha256
from itertools import chain
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from formats import FORMATS, Format
from log.entry import LogEntry
from messages import Chunk
from protocols.base import Endpoint
from protocols.registry import endpoints
from web.keys import API_KEY_MISSING, API_KEY_SCHEMES
from web.middleware import REQUEST_ID, RETRY_AFTER_SECONDS
from web.page import PAGE_HEADERS, PageFiles

POLICY = (
    "default-src 'none'; script-src 'self' 'sha256-{}'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MAX_PROBLEMS = 10
"""How many problems of a request a 422 lists."""

EXAMPLE_ENTRY = LogEntry(
    id="01a20e12-2580-7d6c-9a57-0a8f1c1f7b1e",
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
    streamed=True,
    load_ms=12.4,
    prompt_ms=61.5,
    response_ms=313.2,
    user_agent="curl/8.14.1",
    prompt_chars=20,
    response_chars=25,
)

ERRORS = {
    400: (
        "A `Host` that is not allowed, a body that cannot be parsed, or Ollama refuses the request",
        "There was an error parsing the body",
    ),
    401: (
        "No key, or a wrong one",
        API_KEY_MISSING,
    ),
    404: (
        "The model that the request named does not exist",
        "model 'llama3' not found; pull it with `ollama pull llama3` where Ollama runs",
    ),
    413: (
        "The body is too large",
        "the request body is larger than 1048576 bytes; shorten it, or raise "
        "MINIVAULT_MAX_PROMPT_BYTES",
    ),
    502: (
        "Ollama broke off, failed, or did not keep to its protocol",
        "Ollama failed: unexpected EOF",
    ),
    503: (
        "Too many requests in flight; Ollama busy, unreachable or without its default model; the "
        "log cannot be written or read; or the service is stopping",
        "256 requests are in flight, as many as MINIVAULT_MAX_CONCURRENCY allows; retry later",
    ),
    504: (
        "No first token, or no next one, in time",
        "Ollama sent no first token within 600 s; raise MINIVAULT_FIRST_TOKEN_TIMEOUT to wait "
        "longer",
    ),
    508: (
        "MiniVault is in front of itself",
        "MiniVault is in front of itself: MINIVAULT_OLLAMA_BASE_URL leads back here",
    ),
}
"""For each status, when it occurs and an example of its message."""

REQUEST_ID_HEADER = {
    "description": "The request's id, and that of its log entry if it has one",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
}
ERROR_HEADERS = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}},
    503: {
        "Retry-After": {
            "description": "Seconds",
            "schema": {"type": "integer", "examples": [RETRY_AFTER_SECONDS]},
        }
    },
}


class Error(BaseModel):
    """What happened and what to do about it."""

    detail: str


class ValidationProblem(BaseModel):
    """One thing that is wrong with a request."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description="pydantic's name for it", examples=["extra_forbidden"])
    loc: list[str | int] = Field(description="where it is", examples=[["body", "temprature"]])
    msg: str = Field(examples=["Extra inputs are not permitted"])


class ValidationError(BaseModel):
    """What is wrong with a request, without its input; the last one may say how many more exist."""

    detail: list[ValidationProblem] = Field(max_length=MAX_PROBLEMS + 1)


def describe_error(status: int, description: str, message: str) -> dict[str, Any]:
    """Return the description of one status in OpenAPI."""
    return {
        "model": Error,
        "description": description,
        "content": {"application/json": {"example": {"detail": message}}},
        "headers": ERROR_HEADERS.get(status, {}),
    }


def describe_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the descriptions of these statuses of the table above, or of a 422."""
    return {
        status: (
            {"model": ValidationError} if status == 422 else describe_error(status, *ERRORS[status])
        )
        for status in statuses
    }


def describe_stream(format: Format) -> dict[str, Any]:
    """Return the description of a complete answer in this format."""
    chunks = [Chunk(["Blue light"]), Chunk([" scatters most."])]
    body = b"".join(map(format.encode_chunk, chunks)) + format.encode_end(EXAMPLE_ENTRY)
    return {"schema": {"type": "string"}, "example": body.decode()}


STREAM = {
    "description": (
        "The answer as it arrives. One that fails after its first byte ends with `event: error`, "
        "or with a line that has `error`; plain text, and its connection, just break off"
    ),
    "content": {media_type: describe_stream(format) for media_type, format in FORMATS.items()},
}
METRIC = {"schema": {"type": "string"}, "example": "minivault_requests_in_flight 3.0\n"}
METRICS = {"content": {"text/plain": METRIC, "application/openmetrics-text": METRIC}}


def describe_gateway() -> str:
    """Return a table of the recorded paths of Ollama's own interfaces, in Markdown."""
    rows = "".join(
        f"| `{endpoint.path}` | [{endpoint.summary}]({protocol.reference}) "
        f"| {describe_body(endpoint)} |\n"
        for endpoint, protocol in endpoints()
    )
    return (
        "With `MINIVAULT_LLM_SERVICE=ollama`, Ollama's own interfaces are here too: requests are "
        "forwarded to it unchanged. These are recorded:\n\n"
        f"| `POST` | | a body that works |\n| --- | --- | --- |\n{rows}"
    )


def describe_body(endpoint: Endpoint) -> str:
    """Return a body that the endpoint takes, in Markdown."""
    if endpoint.example is None:
        return "a form with `file` and `model`"
    return f"`{json.dumps({'model': 'tinyllama', **endpoint.example})}`"


def operation_id(route: APIRoute) -> str:
    """Return the name of the route's function, as the id of its operation."""
    return route.name


class DocumentedAPI(FastAPI):
    """FastAPI, whose OpenAPI document also has the key and the header of every response."""

    def openapi(self) -> dict[str, Any]:
        is_new = not self.openapi_schema
        document = super().openapi()
        if is_new:
            document["components"]["securitySchemes"] |= API_KEY_SCHEMES
            document["components"]["headers"] = {REQUEST_ID: REQUEST_ID_HEADER}
            # here, as FastAPI leaves out what is null
            document["components"]["schemas"]["Entry"]["examples"] = [
                from_json(EXAMPLE_ENTRY.to_line())
            ]
            for path in ("/log/figures", "/log/count"):
                lines = document["paths"][path]["get"]["responses"]["200"]["content"]
                del lines["application/json"]  # where FastAPI puts a model; it is a line's
            for operation in chain(*map(dict.values, document["paths"].values())):
                for response in operation["responses"].values():
                    reference = {"$ref": f"#/components/headers/{REQUEST_ID}"}
                    response.setdefault("headers", {})[REQUEST_ID] = reference
        return document


swagger_files = PageFiles(packages=[("fastapi_swagger", "resources")])
router = APIRouter()


@router.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
async def docs(request: Request) -> Response:
    """Return FastAPI's documentation page, with the files that are here."""
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
    digest = b64encode(sha256(script).digest()).decode()
    page.headers.update({**PAGE_HEADERS, "Content-Security-Policy": POLICY.format(digest)})
    return page
