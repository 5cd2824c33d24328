"""The log's key: whoever may read the log folder may read the log over HTTP.

It is made once, beside the log, readable by the owner alone, and printed at start in the fragment
of a path, which no server and no proxy's log gets to see.
"""

import fcntl
import logging
import os
import secrets
from contextlib import suppress
from multiprocessing import current_process
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from web.keys import check_key
from settings import Settings

MIN_LENGTH = 16  # of what is taken for a key: an empty file would let everybody in

diagnostics = logging.getLogger("uvicorn.error")
KEY_WANTED = (
    "send the log's key, as `Authorization: Bearer <key>`; it is what MINIVAULT_LOG_KEY "
    "sets, else what the log folder's `.key` holds"
)
SCHEME = HTTPBearer(scheme_name="log-key", auto_error=False, description=KEY_WANTED)


def key_beside(folder: Path) -> str:
    """Return the key in the folder's `.key`, making it where there is none.

    Services that start at the same moment get the same one: it is made under the folder's lock, and
    `.key` never names a file that is still being written.

    Raises:
        OSError: there is none and it cannot be made.
    """
    path = folder / ".key"
    if key := read_key(path):
        return key
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not read_key(path):
            new = folder / ".key.new"
            new.unlink(missing_ok=True)
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe() + "\n")
            new.replace(path)
        return read_key(path)
    finally:
        os.close(lock)


def read_key(path: Path) -> str:
    """Return the file's key, nothing where it holds none."""
    with suppress(FileNotFoundError):
        key = path.read_text(encoding="latin-1").strip()
        return key if len(key) >= MIN_LENGTH else ""
    return ""


def log_key(settings: Settings) -> str:
    """Return the key that reading the log wants, and print how it is used.

    Where it can be neither read nor made, as on a full disk, one serves until the next start.
    """
    if settings.log_key:
        return settings.log_key.get_secret_value()
    try:
        key = key_beside(settings.log_dir)
    except OSError as exc:
        reason = f"{settings.log_dir / '.key'}: {exc.strerror}"
        diagnostics.warning(
            "the log's key cannot be kept, so it changes with each start: %s", reason
        )
        key = secrets.token_urlsafe()
    if current_process().name in ("MainProcess", "SpawnProcess-1"):  # uvicorn's first worker
        diagnostics.info("the log is read at /#key=%s behind the address below", key)
    return key


async def authorize_reader(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(SCHEME)],
) -> None:
    """Raise 401 unless the request carries the log's key."""
    given = credentials.credentials if credentials else ""
    check_key(given, request.state.log_key, KEY_WANTED)
