"""The key that requests must carry, where one is set."""

import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Depends, HTTPException, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer

MEANING = "the key that MINIVAULT_API_KEY sets, if it is set"
KEY_SCHEMES = [
    Depends(HTTPBearer(scheme_name="key", auto_error=False, description=MEANING)),
    Depends(
        APIKeyHeader(
            name="x-api-key", scheme_name="x-api-key", auto_error=False, description=MEANING
        )
    ),
]
"""For the documentation; `KeyedRoute` is what looks at the key."""


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

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_key(request: Request) -> Response:
            authorize(request)
            return await handle(request)

        return handle_with_key
