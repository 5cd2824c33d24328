"""MiniVault with a shim under its log that notes, in a file, what each fdatasync covered.

A test kills the process and then throws away all that no sync covered, as a power cut would.
"""

import os
from functools import partial
from typing import Any

import app as minivault
from logger import JsonlLog


class RecordingSystem:
    """The `os` module, with a note of every sync that came back."""

    def __init__(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._notes = os.open(os.environ["SYNC_NOTES"], flags, 0o600)

    def fdatasync(self, fd: int) -> None:
        """Sync and note how much that covered: at least what was there before."""
        size = os.fstat(fd).st_size
        os.fdatasync(fd)
        os.write(self._notes, b"%d %d\n" % (os.fstat(fd).st_ino, size))

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


minivault.JsonlLog = partial(JsonlLog, system=RecordingSystem())  # type: ignore[misc,assignment]
app = minivault.create_app()
