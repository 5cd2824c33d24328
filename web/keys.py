"""Keys that requests must carry: how one is checked, and the API's, where one is set."""

import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

KEY_WANTED = "send the key that MINIVAULT_API_KEY sets, as `Authorization: Bearer <key>`"
MEANING = "the key that MINIVAULT_API_KEY sets, if it is set"
KEY_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": MEANING},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": MEANING},
}
"""The two ways to send it, as OpenAPI describes them; FastAPI's own classes would cost each request
two dependencies that find out nothing."""


def check_key(given: str, key: str, wanted: str) -> None:
    """Raise 401, which says what is wanted, unless what was given is the key; in constant time."""
    # header values are latin-1 to Starlette, whatever the client meant by its bytes
    if not secrets.compare_digest(given.encode("latin-1"), key.encode()):
        raise HTTPException(401, wanted, {"WWW-Authenticate": "Bearer"})


def authorize(request: Request) -> None:
    """Raise 401 unless the request carries the key that is set, if any.

    It may also come as `x-api-key`, as Anthropic's clients send it. A preflight carries none.
    """
    key = request.app.state.settings.api_key
    if not key or request.method == "OPTIONS":
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    check_key(given, key.get_secret_value(), KEY_WANTED)


class KeyedRoute(APIRoute):
    """A route that wants the key, before it reads the body."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        security: list[dict[str, list[str]]] = [{name: []} for name in KEY_SCHEMES]
        self.openapi_extra = {**(self.openapi_extra or {}), "security": security}

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_key(request: Request) -> Response:
            authorize(request)
            return await handle(request)

        return handle_with_key
