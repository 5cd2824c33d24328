"""How far a pass over the log is, said now and then in a line of JSON."""

import time
from typing import Any, BinaryIO

import orjson

PROGRESS_SECONDS = 0.25


class Progress:
    """Writes lines with the part of the log that has been read, `{"progress": 0.25}`."""

    def __init__(self, size: int, out: BinaryIO) -> None:
        """Of so many bytes."""
        self._size = size
        self._out = out
        self._due = time.monotonic() + PROGRESS_SECONDS

    def report(self, bytes_read: int, **known: Any) -> None:
        """Write a line if it is time for one, with what is known by then."""
        if (now := time.monotonic()) > self._due:
            self._due = now + PROGRESS_SECONDS
            progress = round(min(bytes_read / max(self._size, 1), 1), 3)
            self._out.write(orjson.dumps({"progress": progress, **known}) + b"\n")
            self._out.flush()
