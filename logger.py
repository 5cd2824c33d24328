"""The log: every request and its answer, one JSON object a line, one file a day.

The promise: when `append` returns, the entry has been handed to the operating system, and with
`fsync` to the disk itself. A background thread writes, so that the event loop never waits for a
disk; entries that arrive together share one write.

The invariant: every write happens under the file's lock and starts on a line of its own. Whatever
tore the last line (a crash, a full disk, a worker killed in mid-write, an editor), its bytes stay
where they are and the next entry does not join them.

Deliberate oddities: a batch that did not fit leaves a torn line and is not truncated away, since
another process may have appended meanwhile; an entry that a failing fsync left in doubt is
answered as an error but not written twice.
"""

import asyncio
import errno
import fcntl
import json
import logging
import os
import queue
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any, Literal, Self

from pydantic_core import to_json

RETRY_SECONDS = 0.5

diagnostics = logging.getLogger("minivault")


class LogUnavailableError(Exception):
    """The log cannot be written; the message names the file and the system's reason."""


@dataclass(slots=True)
class LogEntry:
    """One request and what came of it; the keys of a line, in their order."""

    id: str
    started_at: str
    finished_at: str
    duration_ms: float
    endpoint: str
    llm_type: str
    model: str | None
    status: Literal["ok", "cancelled", "error"]
    prompt: str
    system: str | None
    options: dict[str, Any] | None
    format: Literal["json"] | dict[str, Any] | None
    think: bool | str | None
    response: str
    thinking: str | None
    error: str | None
    ttft_ms: float | None
    prompt_tokens: int | None
    response_tokens: int | None

    @property
    def day(self) -> str:
        """The UTC day on which the answer was finished, `YYYY-MM-DD`."""
        return self.finished_at[:10]

    def line(self) -> bytes:
        """Return the entry as a line of JSON."""
        try:
            return to_json(self) + b"\n"
        except ValueError:  # text that is not Unicode, as in a file's name: \u escapes carry it
            return json.dumps(asdict(self)).encode() + b"\n"


def timestamp(moment: datetime) -> str:
    """Return the moment as RFC 3339 in UTC with microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class DailyFile:
    """The day's file, and the one place where the log meets the operating system.

    `system` is the `os` module or, in tests, something that fails like it.
    """

    def __init__(self, directory: Path, *, fsync: bool = False, system: Any = os) -> None:
        self.directory = directory
        self.path = directory
        self._fsync = fsync
        self._system = system
        self._fd: int | None = None

    def append(self, day: str, data: bytes) -> int:
        """Append whole lines to the day's file and return how many of the bytes it took.

        Like `os.write` it can take fewer than it was given. A torn last line is closed first; with
        no data that is all that happens.

        Raises:
            OSError: nothing was taken.
        """
        fd = self._open(day)
        with suppress(OSError):  # a file system without locks still appends whole writes
            fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            size = self._system.fstat(fd).st_size
            torn = size > 0 and self._system.pread(fd, 1, size - 1) != b"\n"
            head = b"\n" if torn else b""
            taken = self._system.write(fd, head + data) if head or data else 0
            return max(taken - len(head), 0)
        finally:
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)

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

    def _open(self, day: str) -> int:
        path = self.directory / f"{day}.jsonl"
        if self._fd is not None and path == self.path and self._is_in_place():
            return self._fd
        self.close()
        self.path = path
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        try:
            self._fd = self._system.open(path, flags, 0o600)
        except FileNotFoundError:
            self._system.makedirs(self.directory, mode=0o700, exist_ok=True)
            self._fd = self._system.open(path, flags, 0o600)
        if self._fsync:  # a new file is safe only with its name in the folder, and that in its own
            self._sync_folder(self.directory)
            with suppress(PermissionError):  # somebody else's, who may not let it be read
                self._sync_folder(self.directory.parent)
        return self._fd

    def _is_in_place(self) -> bool:
        try:
            there, here = self._system.stat(self.path), self._system.fstat(self._fd)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def _sync_folder(self, folder: Path) -> None:
        fd = self._system.open(folder, os.O_RDONLY)
        try:
            self._system.fsync(fd)
        finally:
            self._system.close(fd)


@dataclass(slots=True)
class _Waiting:
    """An entry on its way to the file, and the future of the request that waits for it."""

    entry: LogEntry
    written: asyncio.Future[None]


class JsonlLog:
    """The log that requests append to; an async context that runs the thread which writes it."""

    def __init__(self, directory: Path, *, fsync: bool = False, system: Any = os) -> None:
        self.failure: str | None = None
        self._file = DailyFile(directory, fsync=fsync, system=system)
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    async def __aenter__(self) -> Self:
        """Open today's file, closing a torn line, and start the thread."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._write, [])
        self._thread.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Write what is still queued and stop the thread."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def check(self) -> None:
        """Raise `LogUnavailableError` while the log cannot be written."""
        if self.failure:
            raise LogUnavailableError(self.failure)

    async def append(self, entry: LogEntry) -> None:
        """Append the entry and return when the operating system has it.

        A caller that is cancelled meanwhile does not take its entry back.

        Raises:
            LogUnavailableError: it could not be written now. It is kept, marked as an error, and
                written first when writing works again.
        """
        waiting = _Waiting(entry, self._loop.create_future())
        self._queue.put(waiting)
        await waiting.written

    def _run(self) -> None:
        kept: list[_Waiting] = []
        running = True
        while running:
            arrived = self._arrived()
            running = None not in arrived
            batch = kept + [waiting for waiting in arrived if waiting]
            if batch or self.failure:
                kept = self._write(batch)
        self._file.close()
        if kept:
            ids = ", ".join(waiting.entry.id for waiting in kept)
            diagnostics.error("stopped with %d entries not written: %s", len(kept), ids)

    def _arrived(self) -> list[_Waiting | None]:
        """Wait for entries, while writing fails only until the next try, and take all there are."""
        arrived: list[_Waiting | None] = []
        with suppress(queue.Empty):
            arrived.append(self._queue.get(timeout=RETRY_SECONDS if self.failure else None))
            while True:
                arrived.append(self._queue.get_nowait())
        return arrived

    def _write(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Write the batch, each entry to its day's file, and return what is to be kept for later.

        An empty batch opens today's file all the same, to see whether writing works.
        """
        in_file = answered = 0
        try:
            if not batch:
                self._file.append(timestamp(datetime.now(UTC))[:10], b"")
                self._file.sync()
            while in_file < len(batch):
                day = batch[in_file].entry.day
                same_day = takewhile(lambda waiting: waiting.entry.day == day, batch[in_file:])
                lines = [waiting.entry.line() for waiting in same_day]
                whole = whole_lines(lines, self._file.append(day, b"".join(lines)))
                if not whole:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                in_file += whole
                self._file.sync()
                self._answer(batch[answered:in_file])
                answered = in_file
        except Exception as exc:  # whatever it is: a dead thread would leave all requests waiting
            self._fail(exc, batch[in_file:])
            self._answer(batch[answered:], self.failure)
        else:
            if self.failure:
                diagnostics.warning("the log is written again: %s", self._file.path)
            self.failure = None
        return batch[in_file:]

    def _fail(self, exc: Exception, kept: list[_Waiting]) -> None:
        reason = getattr(exc, "strerror", None) or repr(exc)
        failure = f"the log {self._file.path} cannot be written: {reason}; see to it and try again"
        if failure != self.failure:
            diagnostics.error("%s", failure)
        self.failure = failure
        self._file.close()
        for waiting in kept:
            if waiting.entry.status == "ok":  # its client is told otherwise
                waiting.entry.status, waiting.entry.error = "error", failure

    def _answer(self, batch: list[_Waiting], failure: str | None = None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(settle, [w.written for w in batch], failure)


def whole_lines(lines: list[bytes], size: int) -> int:
    """Return how many of the lines are in the first `size` bytes of them all.

    A line that lacks nothing but its line end counts: the next append closes it, and to write it
    once more would make two of it.
    """
    return sum(end - 1 <= size for end in accumulate(map(len, lines)))


def settle(futures: list[asyncio.Future[None]], failure: str | None) -> None:
    """Wake the requests that wait for these futures, on the event loop's side."""
    for future in futures:
        if future.done():  # its request was cancelled
            continue
        if failure:
            future.set_exception(LogUnavailableError(failure))
        else:
            future.set_result(None)
