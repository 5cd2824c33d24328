"""The day's file: the one place where the log meets the operating system.

The invariant: every write happens under the lock of the file that has the day's name at that
moment, and starts on a line of its own. Whatever tore the last line (a crash, a worker killed in
mid-write, an editor), its bytes stay where they are and the next entry does not join them; what a
full disk left of our own write is taken back.
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
from typing import Any

DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class DailyFile:
    """The day's file in a folder, made where it is not there, 0600 in a folder made 0700.

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
        """Hold the lock of the file that has the day's name; raise OSError where there is none."""
        while True:
            fd = self._open(day)
            with suppress(OSError):  # a file system without locks still appends whole writes
                fcntl.flock(fd, fcntl.LOCK_EX)
            if self._is_in_place():
                break
            self.close()  # moved away while we waited for the lock, which goes with it
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)

    def append(self, lines: list[bytes]) -> tuple[int, int]:
        """Append lines to the locked file; return how many fit, and how many bytes there was room.

        A torn last line is closed first; with no lines that is all that happens. What was written
        of a line that does not fit is taken back.

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
        # a line that lacks but its end counts: it cannot always be taken back, nor stand twice
        fit = sum(end - 1 <= taken for end in ends)
        if taken < len(data):
            with suppress(OSError):
                if self._system.fstat(fd).st_size == size + taken:
                    last = ends[fit - 1] if fit else len(head)
                    self._system.ftruncate(fd, size + min(taken, last))
        return fit, taken

    def sync(self) -> None:
        """Force what was appended to the disk itself, where that is asked for."""
        if self._fsync and self._fd is not None:
            # macOS has no fdatasync
            getattr(self._system, "fdatasync", self._system.fsync)(self._fd)

    def close(self) -> None:
        """Close the file; the next append opens it again."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with suppress(OSError):
                self._system.close(fd)

    def remove_before(self, day: str) -> Iterator[Path]:
        """Remove the files of days before this one, and yield each that is gone by our doing.

        Nothing else of the folder, and no link; another worker may be at the same.
        """
        for path in sorted(self.directory.glob("*.jsonl")):
            if DAY.fullmatch(path.stem) and path.stem < day:
                with suppress(FileNotFoundError):
                    if stat.S_ISREG(path.lstat().st_mode):
                        path.unlink()
                        yield path

    def _open(self, day: str) -> int:
        path = self.directory / f"{day}.jsonl"
        if self._fd is not None and path == self.path and self._is_in_place():
            return self._fd
        self.close()
        self.path = path
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            self._fd = self._system.open(path, flags, 0o600)
        except FileNotFoundError:
            self._make_folder()
            self._fd = self._system.open(path, flags, 0o600)
        if not stat.S_ISREG(self._system.fstat(self._fd).st_mode):
            self.close()
            raise OSError(errno.EINVAL, "it is not a regular file")
        if self._fsync:  # a new file is safe only with its name in the folder
            self._sync_folder(self.directory)
            self._sync_folder(self.directory.parent)
        return self._fd

    def _make_folder(self) -> None:
        folders = [self.directory, *self.directory.parents]
        made = [folder for folder in folders if not folder.exists()]
        self._system.makedirs(self.directory, mode=0o700, exist_ok=True)
        for folder in made if self._fsync else ():
            self._sync_folder(folder.parent)

    def _is_in_place(self) -> bool:
        try:
            there, here = self._system.stat(self.path), self._system.fstat(self._fd)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def _sync_folder(self, folder: Path) -> None:
        with suppress(PermissionError):  # somebody else's, who may not let it be read
            fd = self._system.open(folder, os.O_RDONLY)
            try:
                self._system.fsync(fd)
            finally:
                self._system.close(fd)
