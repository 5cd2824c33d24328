"""The two keys: the API's, where one is set, and the log's.

Whoever may read the log's directory may read the log over HTTP: its key is made once, beside the
log, readable by the owner alone. In a link it is in the fragment, which no server gets to see.
"""

import fcntl
import logging
import os
import secrets
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import Depends, HTTPException, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request as StarletteRequest

from settings import Settings
from web.state import Request

diagnostics = logging.getLogger("minivault")

MIN_KEY_LENGTH = 16  # of what counts as a key: an empty file would let everybody in

API_KEY_MISSING = "send the key that MINIVAULT_API_KEY sets, as `Authorization: Bearer <key>`"
LOG_KEY_MISSING = (
    "send the log's key, as `Authorization: Bearer <key>`; it is set by MINIVAULT_LOG_KEY, or "
    "else in the file `.key` of the log's directory"
)
API_KEY_MEANING = "the key that MINIVAULT_API_KEY sets, if it is set"
API_KEY_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": API_KEY_MEANING},
    "x-api-key": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": API_KEY_MEANING,
    },
}
"""The two ways to send it, in OpenAPI's terms. FastAPI's own classes would add two dependencies to
each request."""
LOG_KEY_SCHEME = HTTPBearer(scheme_name="log-key", auto_error=False, description=LOG_KEY_MISSING)


def check_key(sent: str, key: str, message: str) -> None:
    """Raise 401 with the message unless the key was sent; in constant time."""
    # Starlette decodes header values as latin-1, whatever the client meant by its bytes
    if not secrets.compare_digest(sent.encode("latin-1"), key.encode()):
        raise HTTPException(401, message, {"WWW-Authenticate": "Bearer"})


def check_api_key(request: Request) -> None:
    """Raise 401 unless the request carries the API's key, if one is set.

    It may also come as `x-api-key`, as Anthropic's clients send it. A preflight carries none.
    """
    key = request.state["settings"].api_key
    if not key or request.method == "OPTIONS":
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    sent = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    check_key(sent, key.get_secret_value(), API_KEY_MISSING)


class KeyedRoute(APIRoute):
    """A route that checks the API's key before it reads the body."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        schemes: list[dict[str, list[str]]] = [{name: []} for name in API_KEY_SCHEMES]
        # {}: without MINIVAULT_API_KEY no key is needed
        self.openapi_extra = {**(self.openapi_extra or {}), "security": [{}, *schemes]}

    def get_route_handler(self) -> Callable[[StarletteRequest], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_key(request: StarletteRequest) -> Response:
            check_api_key(cast(Request, request))
            return await handle(request)

        return handle_with_key


def read_key_file(path: Path) -> str:
    """Return the key in the file, an empty text if there is none."""
    with suppress(FileNotFoundError):
        key = path.read_text(encoding="latin-1").strip()
        return key if len(key) >= MIN_KEY_LENGTH else ""
    return ""


def ensure_key_file(directory: Path) -> str:
    """Return the key in the directory's `.key`; make the file if there is none.

    Services that start at the same moment get the same key: it is made under the directory's lock,
    and `.key` is never the name of a half-written file.

    Raises:
        OSError: there is none and it cannot be made.
    """
    path = directory / ".key"
    if key := read_key_file(path):
        return key
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not read_key_file(path):
            new = directory / ".key.new"
            new.unlink(missing_ok=True)
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe() + "\n")
            new.replace(path)
        return read_key_file(path)
    finally:
        os.close(lock)


def get_log_key(settings: Settings) -> str:
    """Return the key that reading the log needs.

    Where it can be neither read nor made, as on a full disk, there is one until the next start.
    """
    if settings.log_key:
        return settings.log_key.get_secret_value()
    try:
        return ensure_key_file(settings.log_dir)
    except OSError as exc:
        reason = f"{settings.log_dir / '.key'}: {exc.strerror}"
        diagnostics.warning("the log's key cannot be saved and changes at every start: %s", reason)
        return secrets.token_urlsafe()


async def check_log_key(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(LOG_KEY_SCHEME)],
) -> None:
    """Raise 401 unless the request carries the log's key."""
    sent = credentials.credentials if credentials else ""
    check_key(sent, request.state["log_key"], LOG_KEY_MISSING)
