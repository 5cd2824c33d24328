"""The two keys: the API's, where one is set, and the log's.

Whoever may read the log's directory may read the log over HTTP: its key is made once, beside the
log, readable by the owner alone. In a link it is in the fragment, which no server gets to see.
"""

import errno
import fcntl
import logging
import os
import secrets
import stat
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import Depends, HTTPException, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request as StarletteRequest

from settings import KEY, Settings
from web.state import Request

diagnostics = logging.getLogger("minivault")

MIN_KEY_LENGTH = 16
"""Of a key that is not guessed. An empty `.key` would let everybody in."""

FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO

API_KEY_MISSING = "send the key that MINIVAULT_API_KEY sets, as `Authorization: Bearer <key>`"
OLLAMA_PROGRAM = "ollama/"
"""How the `User-Agent` of the `ollama` program begins, which takes a 401 for one of Ollama's cloud.
"""
OLLAMA_PROGRAM_HAS_NO_KEY = (
    "MiniVault wants the key that MINIVAULT_API_KEY sets, and the ollama program cannot send one; "
    "docs/clients.md says how it can be used all the same"
)
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


def is_key(sent: str, key: str) -> bool:
    """Return whether the key was sent; in constant time."""
    # Starlette decodes header values as latin-1, whatever the client meant by its bytes
    return secrets.compare_digest(sent.encode("latin-1"), key.encode())


def unauthorized(message: str) -> HTTPException:
    """Return the error for a request without its key."""
    return HTTPException(401, message, {"WWW-Authenticate": "Bearer"})


def check_api_key(request: Request) -> None:
    """Raise 401 unless the request carries the API's key, if one is set; 403 for the `ollama`
    program, which prints its words.

    It may also come as `x-api-key`, as Anthropic's clients send it. A preflight carries none.
    """
    key = request.state["settings"].api_key
    if not key or request.method == "OPTIONS":
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    sent = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    if is_key(sent, key.get_secret_value()):
        return
    if request.headers.get("user-agent", "").startswith(OLLAMA_PROGRAM):
        raise HTTPException(403, OLLAMA_PROGRAM_HAS_NO_KEY)
    raise unauthorized(API_KEY_MISSING)


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
    """Return the key in the file, an empty text if there is none.

    Raises:
        OSError: it cannot be read, or is nothing that a header can carry.
    """
    with suppress(FileNotFoundError):
        key = path.read_text(encoding="latin-1").strip()
        if key and not KEY.fullmatch(key):
            raise OSError(errno.EINVAL, "it is not one line of ASCII; remove it to get a new one")
        return key if len(key) >= MIN_KEY_LENGTH else ""
    return ""


def ensure_key_file(directory: Path) -> str:
    """Return the key in the directory's `.key`; make the file if there is none.

    Services that start at the same moment get the same key: it is made under the directory's lock,
    and `.key` is never the name of a half-written file.

    Raises:
        OSError: there is none and it cannot be made, or what is there is no key.
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
    """Return the key that reading the log needs; print what is wrong with it.

    Where it can be neither read nor made, as on a full disk, there is one until the next start.
    """
    if settings.log_key:
        key = settings.log_key.get_secret_value()
        if len(key) < MIN_KEY_LENGTH:
            diagnostics.warning(
                "MINIVAULT_LOG_KEY has fewer than %d characters and can be guessed; choose a "
                "longer one",
                MIN_KEY_LENGTH,
            )
        return key
    path = settings.log_dir / ".key"
    try:
        key = ensure_key_file(settings.log_dir)
        if path.stat().st_mode & FOR_OTHERS:
            diagnostics.warning("others can read the log's key; run `chmod 600 %s`", path)
        return key
    except OSError as exc:
        diagnostics.warning(
            "nobody can read the log over HTTP, as its key is missing: %s: %s", path, exc.strerror
        )
        return secrets.token_urlsafe()


async def check_log_key(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(LOG_KEY_SCHEME)],
) -> None:
    """Raise 401 unless the request carries the log's key."""
    sent = credentials.credentials if credentials else ""
    if not is_key(sent, request.state["log_key"]):
        raise unauthorized(LOG_KEY_MISSING)
