"""An operating system that fails on demand, for the log's seam; real files underneath.

Besides failing it remembers, as SQLite's crash tests do: which bytes of which file were covered by
a sync, and which names by a sync of their folder. `lose_power` leaves just these.
"""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Fault = Callable[[int, bytes], int]


def short(size: int) -> Fault:
    """Make a write take only `size` bytes."""
    return lambda fd, data: os.write(fd, data[:size])


def failing(code: int) -> Fault:
    """Make a write fail and take nothing."""

    def fault(fd: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    return fault


def torn_by_a_kill(size: int) -> Fault:
    """Write `size` bytes and die."""

    def fault(fd: int, data: bytes) -> int:
        os.write(fd, data[:size])
        raise Killed

    return fault


class Killed(BaseException):
    """The process would be gone here."""


class FaultySystem:
    """The `os` module as the log uses it; `faults` says what the next writes do, None for well."""

    def __init__(self, faults: Iterator[Fault | None] = iter(())) -> None:
        self.faults = faults
        self.writes = 0
        self.sync_fails = False
        self.is_full = False
        self._sizes: dict[int, int] = {}
        self._names: set[int] = set()
        self._folders: dict[int, Path] = {}

    def write(self, fd: int, data: bytes) -> int:
        """Write, or fail as the next fault says."""
        self.writes += 1
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fault = next(self.faults, None)
        return fault(fd, data) if fault else os.write(fd, data)

    def fdatasync(self, fd: int) -> None:
        """Remember how much of the file is on the disk itself."""
        if self.sync_fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._sizes[os.fstat(fd).st_ino] = os.fstat(fd).st_size

    def fsync(self, fd: int) -> None:
        """Remember which names of the folder are on the disk itself."""
        self._names |= {entry.inode() for entry in os.scandir(fd)}

    def lose_power(self, directory: Path) -> None:
        """Throw away what no sync covered."""
        if directory.exists() and directory.stat().st_ino not in self._names:
            for path in directory.iterdir():
                path.unlink()
        for path in directory.glob("*.jsonl"):
            inode = path.stat().st_ino
            if inode in self._names:
                os.truncate(path, self._sizes.get(inode, 0))
            else:
                path.unlink()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)
