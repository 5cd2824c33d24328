"""The day's file: where the log meets the operating system.

The invariant: every write happens under the lock of the file that has the day's name at that
moment, and begins on a line of its own. A torn last line (after a crash, a kill in mid-write, an
editor) stays as it is and the next entry does not continue it. What a full disk left of our own
write is removed again.
"""

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

DAILY_FILE = re.compile(r"(\d{4}-\d\d-\d\d)\.jsonl")


def day_path(directory: Path, day: str) -> Path:
    """Return the path of the file of a day, `YYYY-MM-DD`."""
    return directory / f"{day}.jsonl"


def list_days(directory: Path) -> list[str]:
    """Return the days that the directory has files of, the first one first; none without it."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted(match[1] for name in names if (match := DAILY_FILE.fullmatch(name)))


class LogUsage(NamedTuple):
    """How much room a log takes, and how much is left, in bytes."""

    size: int
    free: int


def measure_log(directory: Path) -> LogUsage:
    """Return how much room the daily files take; raise OSError without the directory."""
    size = 0
    for day in list_days(directory):
        with suppress(OSError):  # it is removed at this moment
            size += day_path(directory, day).lstat().st_size
    disk = os.statvfs(directory)
    return LogUsage(size, disk.f_bavail * disk.f_frsize)


class DailyFile:
    """The file of a day in a directory; both are made if absent, 0600 in 0700.

    `system` is the `os` module or, in tests, something that fails like it.
    """

    def __init__(self, directory: Path, *, fsync: bool = False, system: Any = os) -> None:
        self.directory = directory
        self.path = directory
        self._fsync = fsync
        self._system = system
        self._fd: int | None = None

    @contextmanager
    def locked(self, day: str) -> Iterator[None]:
        """Hold the lock of the file with the day's name; raise OSError if it cannot be opened."""
        while True:
            fd = self._open(day)
            with suppress(OSError):  # a file system without locks still appends whole writes
                fcntl.flock(fd, fcntl.LOCK_EX)
            if self._is_in_place():
                break
            self.close()  # it was moved while we waited for its lock
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)

    def append(self, lines: list[bytes]) -> tuple[int, int]:
        """Append lines to the locked file; return how many fit, and how many bytes were written.

        A torn last line is ended first, also where there are no lines. What was written of a line
        that does not fit is removed.

        Raises:
            OSError: nothing was written.
        """
        fd = self._fd
        size = self._system.fstat(fd).st_size
        torn = size > 0 and self._system.pread(fd, 1, size - 1) != b"\n"
        head = b"\n" if torn else b""
        data = head + b"".join(lines)
        taken = self._system.write(fd, data) if data else 0
        ends = [len(head) + end for end in accumulate(map(len, lines))]
        # a line without its last byte counts: it cannot always be removed, nor be written twice
        fit = sum(end - 1 <= taken for end in ends)
        if taken < len(data):
            with suppress(OSError):
                if self._system.fstat(fd).st_size == size + taken:
                    last = ends[fit - 1] if fit else len(head)
                    self._system.ftruncate(fd, size + min(taken, last))
        return fit, taken

    def sync(self) -> None:
        """Force what was appended to the disk itself, with `fsync`."""
        if self._fsync and self._fd is not None:
            # macOS has no fdatasync
            getattr(self._system, "fdatasync", self._system.fsync)(self._fd)

    def close(self) -> None:
        """Close the file; the next append opens it again."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with suppress(OSError):
                self._system.close(fd)

    def _open(self, day: str) -> int:
        path = day_path(self.directory, day)
        if self._fd is not None and path == self.path and self._is_in_place():
            return self._fd
        self.close()
        self.path = path
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            self._fd = self._system.open(path, flags, 0o600)
        except FileNotFoundError:
            self._make_directory()
            self._fd = self._system.open(path, flags, 0o600)
        if not stat.S_ISREG(self._system.fstat(self._fd).st_mode):
            self.close()
            raise OSError(errno.EINVAL, "it is not a regular file")
        if self._fsync:  # a new file is safe only when its directory is
            self._sync_directory(self.directory)
            self._sync_directory(self.directory.parent)
        return self._fd

    def _make_directory(self) -> None:
        ancestors = [self.directory, *self.directory.parents]
        missing = [directory for directory in ancestors if not directory.exists()]
        self._system.makedirs(self.directory, mode=0o700, exist_ok=True)
        for directory in missing if self._fsync else ():
            self._sync_directory(directory.parent)

    def _is_in_place(self) -> bool:
        try:
            named, opened = self._system.stat(self.path), self._system.fstat(self._fd)
        except OSError:
            return False
        return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)

    def _sync_directory(self, directory: Path) -> None:
        with suppress(PermissionError):  # another user's, which may not be readable
            fd = self._system.open(directory, os.O_RDONLY)
            try:
                self._system.fsync(fd)
            finally:
                self._system.close(fd)
