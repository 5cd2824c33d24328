"""The log: every request and its answer, one JSON object a line, one file a day.

The promise: when `append` returns, the entry has been handed to the operating system, and with
`fsync` to the disk itself. A background thread writes, so that the event loop never waits for a
disk; entries that arrive together share one write.

Deliberate oddities: an entry that a failing fsync, or a stalled write, left in doubt is answered as
an error but not written twice; lines are made under the file's lock, so that an entry whose request
gave up while another process held the lock says so.
"""

import asyncio
import errno
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from log import retention
from log.daily_file import DailyFile
from log.entry import LogEntry, format_timestamp
from telemetry import metrics

RETRY_SECONDS = 0.5
BATCH_BYTES = 2**25
"""How much one write takes, as far as an entry is not larger: lines are made in memory."""

SMALL_BYTES = 4096
"""Room for a usual entry: after a write that did not fit but got so far, others may still fit."""

diagnostics = logging.getLogger("minivault")


class LogUnavailableError(Exception):
    """The log cannot be written; the message names the file and the system's reason."""


@dataclass(slots=True)
class _Waiting:
    """An entry on its way to the file, or None to only open the file, and the request waiting."""

    entry: LogEntry | None
    written: asyncio.Future[None]
    is_taken: bool = False
    """Whether its line has been made: what it says now will be in the file."""


class JsonlLog:
    """The log that requests append to; an async context that runs the writing thread."""

    def __init__(
        self,
        directory: Path,
        *,
        fsync: bool = False,
        timeout: float = 5,
        keep_texts: bool = True,
        retention_days: int = 0,
        system: Any = os,
    ) -> None:
        """A write that takes longer than `timeout` seconds counts as failing; files of days that
        are older than `retention_days` are removed, 0 keeps all."""
        self._file = DailyFile(directory, fsync=fsync, system=system)
        self._timeout = timeout
        self._keep_texts = keep_texts
        self._retention = retention.Retention(directory, retention_days)
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        # used by the thread
        self._batch: list[_Waiting] = []
        self._fault: str | None = None
        # used by the event loop
        self._stall: str | None = None
        # used by both
        self._failing_since: float | None = None

    @property
    def failure(self) -> str | None:
        """Why the log cannot be written now, None while it can."""
        return self._stall or self._fault

    @property
    def seconds_since_writable(self) -> float:
        """How long the log has not been writable, 0 while it is."""
        return time.monotonic() - self._failing_since if self._failing_since else 0.0

    @property
    def waiting(self) -> int:
        """How many entries wait to be written."""
        return self._queue.qsize() + len(self._batch)

    async def __aenter__(self) -> Self:
        """Start the thread, and let it open today's file and end a torn line."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        with suppress(LogUnavailableError):
            await self._wait(self._enqueue(None))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Write what is queued and stop the thread; print what could not be written."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, self._timeout)
        waiting = list(self._batch)
        with suppress(queue.Empty):
            while True:
                waiting += filter(None, [self._queue.get_nowait()])
        self._queue.put(None)  # for a thread that was stalled
        if ids := [each.entry.id for each in waiting if each.entry]:
            diagnostics.error("stopped with %d entries not written: %s", len(ids), ", ".join(ids))

    def check(self) -> None:
        """Raise `LogUnavailableError` while the log cannot be written."""
        if self.failure:
            raise LogUnavailableError(self.failure)

    async def append(
        self, entry: LogEntry, cancelled_by: Callable[[], str] = lambda: "cancelled"
    ) -> None:
        """Append the entry and return when the operating system has it.

        A caller that is cancelled before the line is made does not take its entry back: it says
        then that it was cancelled, and by whom. Once the line is made, the cancellation is undone,
        so that the client gets the answer that the log has.

        Raises:
            LogUnavailableError: it could not be written now. It is kept, marked as an error, and
                written when writing works again.
        """
        waiting = self._enqueue(entry)
        try:
            await self._wait(waiting)
        except asyncio.CancelledError:
            if not waiting.is_taken or entry.status != "ok":
                mark_cancelled(entry, cancelled_by())
                raise
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            await self._wait(waiting)

    def _enqueue(self, entry: LogEntry | None) -> _Waiting:
        waiting = _Waiting(entry, self._loop.create_future())
        self._queue.put(waiting)
        return waiting

    async def _wait(self, waiting: _Waiting) -> None:
        """Wait until the entry is written; raise `LogUnavailableError` if it is not in time."""
        try:
            async with asyncio.timeout(0 if self._stall else self._timeout):
                await asyncio.shield(waiting.written)
        except TimeoutError:
            if not self._stall:
                self._stall = self._describe(f"no write succeeded for {self._timeout:g} s")
                metrics.LOG_FAILURES.inc()
                self._report_failure(self._stall)
            mark_failed(waiting.entry, self._stall)
            raise LogUnavailableError(self._stall) from None

    def _settle(self, batch: list[_Waiting], failure: str | None) -> None:
        """Wake the requests that wait for these entries; after any write there is no stall."""
        if self._stall:
            self._stall = None
            self._report_recovery()
        for waiting in batch:
            if waiting.written.done():  # it was tried before
                continue
            if failure:
                waiting.written.set_exception(LogUnavailableError(failure))
            else:
                waiting.written.set_result(None)

    # what follows runs in the thread

    def _run(self) -> None:
        running = True
        while running:
            arrived = self._receive()
            running = None not in arrived
            self._batch += filter(None, arrived)
            self._remove_old_files()
            del arrived  # while the log is idle, nothing holds on to what was written
            if self._batch or self._fault:
                self._batch = self._write(self._batch)
        self._file.close()

    def _receive(self) -> list[_Waiting | None]:
        """Wait for entries, or for the next retry if there is something to retry; return all."""
        arrived: list[_Waiting | None] = []
        with suppress(queue.Empty):
            retry = self._fault or self._batch
            arrived.append(
                self._queue.get(timeout=RETRY_SECONDS if retry else retention.LOOK_SECONDS)
            )
            while True:
                arrived.append(self._queue.get_nowait())
        return arrived

    def _remove_old_files(self) -> None:
        try:
            self._retention.remove_old_files()
        except Exception as exc:  # any, as below
            diagnostics.error("old files of the log cannot be removed: %r", exc)

    def _write(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Write the batch, each entry to its day's file; return what has to be kept for later.

        Without an entry, today's file is still opened, to find out whether writing works.
        """
        entries = [each for each in batch if each.entry]
        days = groupby(entries, lambda each: each.entry.day)  # type: ignore[union-attr]
        written = [self._write_day(day, list(same_day)) for day, same_day in days]
        if not entries:
            written = [self._write_day(format_timestamp(datetime.now(UTC))[:10], [])]
        if self._fault and all(works for _, works in written):
            self._fault = None
            self._report_recovery()
        self._wake([each for each in batch if not each.entry], self._fault)
        return [each for kept, _ in written for each in kept]

    def _write_day(self, day: str, batch: list[_Waiting]) -> tuple[list[_Waiting], bool]:
        """Write entries of one day; return those to keep for later, and whether writing works.

        An entry that does not fit delays no other.
        """
        kept: list[_Waiting] = []
        while True:
            fit = 0
            try:
                with metrics.LOG_WRITE.time():
                    with self._file.locked(day):
                        lines = self._make_lines(batch)
                        fit, room = self._file.append(lines)
                    self._file.sync()
            except Exception as exc:  # any: without the thread all requests would wait for ever
                failure = self._fail(getattr(exc, "strerror", None) or repr(exc))
                self._wake(batch[:fit], failure)
                return kept + self._keep(batch[fit:], failure), False
            metrics.LOG_ENTRIES.inc(fit)
            metrics.LOG_BYTES.inc(sum(map(len, lines[:fit])))
            self._wake(batch[:fit])
            if fit == len(lines):
                batch = batch[fit:]
                if not batch:
                    return kept, True
                continue
            works = room >= SMALL_BYTES
            failure = self._fail(os.strerror(errno.ENOSPC), others_fit=works)
            tried = batch[fit : fit + 1] if works else batch[fit:]
            kept += self._keep(tried, failure)
            batch = batch[fit + len(tried) :]
            if not batch:
                return kept, works

    def _make_lines(self, batch: list[_Waiting]) -> list[bytes]:
        """Return the lines of the first entries, of as many as one write takes."""
        lines: list[bytes] = []
        size = 0
        for waiting in batch:
            lines.append(self._make_line(waiting))
            size += len(lines[-1])
            if size > BATCH_BYTES:
                break
        return lines

    def _make_line(self, waiting: _Waiting) -> bytes:
        entry = waiting.entry
        assert entry is not None
        waiting.is_taken = True
        return (entry if self._keep_texts else entry.without_texts()).to_line()

    def _fail(self, reason: str, *, others_fit: bool = False) -> str:
        """Return the message of a failure, and print it once if it concerns every entry."""
        metrics.LOG_FAILURES.inc()
        self._file.close()  # the space of a file that is deleted is free only then
        failure = self._describe(reason)
        if not others_fit and failure != self._fault:
            self._fault = failure
            self._report_failure(failure)
        return failure

    def _keep(self, batch: list[_Waiting], failure: str) -> list[_Waiting]:
        """Mark entries that are kept for later: their clients get an error."""
        for each in batch:
            mark_failed(each.entry, failure)
        self._wake(batch, failure)
        return batch

    def _wake(self, batch: list[_Waiting], failure: str | None = None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, batch, failure)

    def _describe(self, reason: str) -> str:
        return f"the log {self._file.path} cannot be written: {reason}; correct this, then retry"

    def _report_failure(self, failure: str) -> None:
        self._failing_since = self._failing_since or time.monotonic()
        diagnostics.error("%s", failure)

    def _report_recovery(self) -> None:
        self._failing_since = None
        metrics.LOG_SECONDS.set(0)
        diagnostics.warning("the log can be written again: %s", self._file.path)


def mark_cancelled(entry: LogEntry, reason: str) -> None:
    """Make an entry say that its client did not get the answer."""
    if entry.status == "ok":
        entry.error, entry.status = reason, "cancelled"


def mark_failed(entry: LogEntry | None, failure: str) -> None:
    """Make an entry say what its client was told."""
    if entry and entry.status == "ok":
        entry.error, entry.status = failure, "error"
