"""The log: every request and its answer, one JSON object a line, one file a day.

The promise: when `append` returns, the entry has been handed to the operating system, and with
`fsync` to the disk itself. A background thread writes, so that the event loop never waits for a
disk; entries that arrive together share one write.

Deliberate oddities: an entry that a failing fsync, or a write that stalls, left in doubt is
answered as an error but not written twice; lines are made under the lock, so that an entry whose
request gave up while somebody else held it says so.
"""

import asyncio
import errno
import logging
import os
import queue
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from telemetry import metrics
from log.daily_file import DailyFile
from log.entry import LogEntry, timestamp

RETRY_SECONDS = 0.5
DAY_CHECK_SECONDS = 60.0
"""How often an idle log looks whether a new day has begun, to remove old ones."""

SMALL_BYTES = 4096
"""Room for a usual entry: where a try that did not fit found so much, others may fit."""

diagnostics = logging.getLogger("minivault")


class LogUnavailableError(Exception):
    """The log cannot be written; the message names the file and the system's reason."""


@dataclass(slots=True)
class _Waiting:
    """An entry on its way to the file, None to look at the file only, and who waits for it."""

    entry: LogEntry | None
    written: asyncio.Future[None]


class JsonlLog:
    """The log that requests append to; an async context that runs the thread which writes it."""

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
        self._retention_days = retention_days
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        # the thread's
        self._batch: list[_Waiting] = []
        self._fault: str | None = None
        self._day = ""
        # the event loop's
        self._stall: str | None = None
        # of whichever notices
        self._failing_since: float | None = None

    @property
    def failure(self) -> str | None:
        """Why the log cannot be written now, None while it can."""
        return self._stall or self._fault

    @property
    def seconds_since_writable(self) -> float:
        """How long the log has not been writable, 0 while it is."""
        return time.monotonic() - self._failing_since if self._failing_since else 0.0

    async def __aenter__(self) -> Self:
        """Start the thread, and have it open today's file and close a torn line."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        with suppress(LogUnavailableError):
            await self._put(None)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Write what is still queued and stop the thread; say what could not be written."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, self._timeout)
        waiting = list(self._batch)
        with suppress(queue.Empty):
            while True:
                waiting += filter(None, [self._queue.get_nowait()])
        self._queue.put(None)  # for a thread that a stall held up
        if ids := [each.entry.id for each in waiting if each.entry]:
            diagnostics.error("stopped with %d entries not written: %s", len(ids), ", ".join(ids))

    def check(self) -> None:
        """Raise `LogUnavailableError` while the log cannot be written."""
        if self.failure:
            raise LogUnavailableError(self.failure)

    async def append(self, entry: LogEntry) -> None:
        """Append the entry and return when the operating system has it.

        A caller that is cancelled meanwhile does not take its entry back.

        Raises:
            LogUnavailableError: it could not be written now. It is kept, marked as an error, and
                written when writing works again.
        """
        await self._put(entry if self._keep_texts else entry.without_texts())

    async def _put(self, entry: LogEntry | None) -> None:
        waiting = _Waiting(entry, self._loop.create_future())
        self._queue.put(waiting)
        try:
            async with asyncio.timeout(0 if self._stall else self._timeout):
                await waiting.written
        except TimeoutError:
            if not self._stall:
                self._stall = self._words(f"it has not taken a write for {self._timeout:g} s")
                metrics.LOG_FAILURES.inc()
                self._say(self._stall)
            mark_failed(entry, self._stall)
            raise LogUnavailableError(self._stall) from None

    def _settle(self, batch: list[_Waiting], failure: str | None) -> None:
        """Wake the requests that wait for these; whatever was written, no stall is left."""
        if self._stall:
            self._stall = None
            self._say_again()
        for waiting in batch:
            if waiting.written.done():  # its request was cancelled
                continue
            if failure:
                waiting.written.set_exception(LogUnavailableError(failure))
            else:
                waiting.written.set_result(None)

    # what follows runs in the thread

    def _run(self) -> None:
        running = True
        while running:
            arrived = self._arrived()
            running = None not in arrived
            self._batch += filter(None, arrived)
            self._remove_old_days()
            if self._batch or self._fault:
                self._batch = self._write(self._batch)
        self._file.close()

    def _arrived(self) -> list[_Waiting | None]:
        """Wait for entries, while some are kept only until the next try, and take all there are."""
        arrived: list[_Waiting | None] = []
        with suppress(queue.Empty):
            retry = self._fault or self._batch
            arrived.append(self._queue.get(timeout=RETRY_SECONDS if retry else DAY_CHECK_SECONDS))
            while True:
                arrived.append(self._queue.get_nowait())
        return arrived

    def _remove_old_days(self) -> None:
        today = datetime.now(UTC).date()
        if not self._retention_days or self._day == str(today):
            return
        self._day = str(today)
        oldest = today - timedelta(days=self._retention_days)
        try:
            for path in self._file.remove_before(str(oldest)):
                diagnostics.info("removed %s: its day is older than the retention", path)
        except OSError as exc:
            diagnostics.error("old days of the log could not be removed: %s", exc)

    def _write(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Write the batch, each entry to its day's file, and return what is to be kept for later.

        Without any entry today's file is opened all the same, to see whether writing works.
        """
        entries = [each for each in batch if each.entry]
        days = groupby(entries, lambda each: each.entry.day)  # type: ignore[union-attr]
        written = [self._write_day(day, list(same_day)) for day, same_day in days]
        if not entries:
            written = [self._write_day(timestamp(datetime.now(UTC))[:10], [])]
        if self._fault and all(is_well for _, is_well in written):
            self._fault = None
            self._say_again()
        self._answer([each for each in batch if not each.entry], self._fault)
        return [each for kept, _ in written for each in kept]

    def _write_day(self, day: str, batch: list[_Waiting]) -> tuple[list[_Waiting], bool]:
        """Write entries of one day; return those that are to be kept, and whether all is well.

        One that does not fit holds up no other.
        """
        kept: list[_Waiting] = []
        while True:
            fit = 0
            try:
                with metrics.LOG_WRITE.time():
                    with self._file.locked(day):
                        lines = [each.entry.line() for each in batch if each.entry]
                        fit, room = self._file.append(lines)
                    self._file.sync()
            except Exception as exc:  # any: a dead thread would leave all requests waiting
                failure = self._fail(getattr(exc, "strerror", None) or repr(exc))
                self._answer(batch[:fit], failure)
                return kept + self._keep(batch[fit:], failure), False
            metrics.LOG_ENTRIES.inc(fit)
            metrics.LOG_BYTES.inc(sum(map(len, lines[:fit])))
            self._answer(batch[:fit])
            if fit == len(batch):
                return kept, True
            is_well = room >= SMALL_BYTES
            failure = self._fail(os.strerror(errno.ENOSPC), others_fit=is_well)
            tried = batch[fit : fit + 1] if is_well else batch[fit:]
            kept += self._keep(tried, failure)
            batch = batch[fit + len(tried) :]
            if not batch:
                return kept, is_well

    def _fail(self, reason: str, *, others_fit: bool = False) -> str:
        """Return what to say of a failure, and say it once where it concerns every entry."""
        metrics.LOG_FAILURES.inc()
        self._file.close()  # a file that somebody deletes gives back its space only then
        failure = self._words(reason)
        if not others_fit and failure != self._fault:
            self._fault = failure
            self._say(failure)
        return failure

    def _keep(self, batch: list[_Waiting], failure: str) -> list[_Waiting]:
        """Mark entries that are kept for later: their clients are told of an error."""
        for each in batch:
            mark_failed(each.entry, failure)
        self._answer(batch, failure)
        return batch

    def _answer(self, batch: list[_Waiting], failure: str | None = None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, batch, failure)

    def _words(self, reason: str) -> str:
        return f"the log {self._file.path} cannot be written: {reason}; see to it and try again"

    def _say(self, failure: str) -> None:
        self._failing_since = self._failing_since or time.monotonic()
        diagnostics.error("%s", failure)

    def _say_again(self) -> None:
        self._failing_since = None
        metrics.LOG_SECONDS.set(0)
        diagnostics.warning("the log is written again: %s", self._file.path)


def mark_failed(entry: LogEntry | None, failure: str) -> None:
    """Let an entry say what its client was told."""
    if entry and entry.status == "ok":
        entry.error, entry.status = failure, "error"
