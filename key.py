"""The key that requests must carry, where one is set."""

import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

MEANING = "the key that MINIVAULT_API_KEY sets, if it is set"
KEY_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": MEANING},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": MEANING},
}
"""The two ways to send it, as OpenAPI describes them; FastAPI's own classes would cost each request
two dependencies that find out nothing."""


def authorize(request: Request) -> None:
    """Raise 401 unless the request carries the key that is set, if any.

    It may also come as `x-api-key`, as Anthropic's clients send it. A preflight carries none.
    """
    key = request.app.state.settings.api_key
    if not key or request.method == "OPTIONS":
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    # header values are latin-1 to Starlette, whatever the client meant by its bytes
    if not secrets.compare_digest(given.encode("latin-1"), key.get_secret_value().encode()):
        detail = "send the key that MINIVAULT_API_KEY sets, as `Authorization: Bearer <key>`"
        raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})


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
