"""The route of a prompt: its body is read once, by pydantic's own parser.

FastAPI would make Python objects of the body first and validate these. With a megabyte of small
lists that takes seconds, in which nothing else runs.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response

from messages import Prompt
from protocols.json_reading import is_costly
from web.keys import KeyedRoute, check_api_key
from web.state import Request

MAX_VALUES = 20_000
"""A prompt has few; the rest of them are in a JSON schema."""


NOT_PARSED = "There was an error parsing the body"
"""FastAPI's words, and its 400, for what is no Unicode or more than a parser can hold."""

UNPARSABLE = ("recursion limit exceeded", "number out of range")
"""What the parser says of the latter."""


class PromptRequest(StarletteRequest):
    """A request whose body has been read: FastAPI finds a `Prompt` where it looks for JSON."""

    def __init__(self, request: StarletteRequest, prompt: Prompt) -> None:
        super().__init__(request.scope, request.receive)
        self._prompt = prompt

    async def body(self) -> bytes:
        return b"{}"  # FastAPI looks whether there is one

    async def json(self) -> Any:
        return self._prompt


class PromptRoute(KeyedRoute):
    """Checks the API's key, and then the body."""

    def get_route_handler(self) -> Callable[[StarletteRequest], Coroutine[Any, Any, Response]]:
        handle = APIRoute.get_route_handler(self)

        async def handle_prompt(request: StarletteRequest) -> Response:
            check_api_key(cast(Request, request))
            if is_json(request.headers.get("content-type", "")):
                request = PromptRequest(request, parse_prompt(await request.body()))
            return await handle(request)

        return handle_prompt


def is_json(content_type: str) -> bool:
    """Return whether a `Content-Type` says JSON."""
    kind, _, subtype = content_type.partition(";")[0].strip().lower().partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


def parse_prompt(body: bytes) -> Prompt:
    """Return the prompt; raise `RequestValidationError` if the body is none, or costs too much."""
    if is_costly(body, MAX_VALUES):
        message = "The body has too many values to be read; send fewer lists and objects"
        raise RequestValidationError([describe("too_many_values", (), message)], body={})
    try:
        return Prompt.model_validate_json(body)
    except ValidationError as exc:
        if not is_utf8(body) or any(reason in str(exc) for reason in UNPARSABLE):
            raise HTTPException(400, NOT_PARSED) from None
        errors = exc.errors(include_url=False, include_context=False, include_input=False)
        problems = [describe(error["type"], error["loc"], error["msg"]) for error in errors]
        raise RequestValidationError(problems, body={}) from None


def is_utf8(data: bytes) -> bool:
    """Return whether data is text in UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def describe(kind: str, location: Sequence[int | str], message: str) -> dict[str, Any]:
    """Return a problem of the body in pydantic's form."""
    return {"type": kind, "loc": ("body", *location), "msg": message}
