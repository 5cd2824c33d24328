"""Finding entries in the daily files, newest first.

The invariant: files are read backwards in blocks and never kept whole, so memory is bounded by one
line; a loop that goes on to the next entry lets go of the last one (`del`). A line counts when it
is a JSON object: one that is torn, or longer than `MAX_LINE`, is skipped, and so is a file that
disappears or shrinks meanwhile.
"""

import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from log.daily_file import day_path, list_days
from log.filter import Filter

BLOCK = 1 << 17
MAX_LINE = 64 << 20
DISORDER = timedelta(minutes=10)  # of lines in a file, where one process was delayed in writing


class FoundEntry(NamedTuple):
    """An entry, and where in the log it is."""

    day: str
    offset: int
    line: bytes | memoryview
    entry: dict[str, Any]


def parse_float(text: str) -> float | str:
    """Return the number; its text where it is too large for one."""
    number = float(text)
    return number if math.isfinite(number) else text


def parse_line(line: bytes | memoryview) -> tuple[dict[str, Any] | None, bytes | memoryview]:
    """Return a line's object, None if it is none, and the line as every JSON parser accepts it."""
    try:
        entry = orjson.loads(line)
    except ValueError:  # torn; or with NaN, 1e999 or half a surrogate pair, which clients can send
        try:
            entry = json.loads(str(line, "utf-8"), parse_constant=str, parse_float=parse_float)
        except (ValueError, RecursionError):
            return None, line
        line = json.dumps(entry).encode()
    return (entry if isinstance(entry, dict) else None), line


def read_backwards(fd: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield pieces of whole lines and where each begins, from `end` back to the beginning."""
    looked = end
    tail = b""  # of a line, up to `end`; a line longer than a block is read again as a whole
    while looked > 0:
        start = max(looked - BLOCK, 0)
        block = os.pread(fd, looked - start, start)
        if len(block) < looked - start:  # the file has shrunk
            looked, end, tail = start, start + len(block), b""
        cut = block.find(b"\n") + 1 if start else 0
        if cut or not start:
            lines = block[cut:] + tail
            if len(lines) < end - start - cut <= MAX_LINE + BLOCK:
                lines = os.pread(fd, end - start - cut, start + cut)
            if lines:  # of a line that is too long its beginning, which is skipped as a torn one is
                yield start + cut, lines
            end, tail = start + cut, block[:cut]
        else:
            tail = b""
        looked = start


def split_lines(lines: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each line begins and ends, the last one first."""
    end = len(lines)
    while end > 0:
        start = lines.rfind(b"\n", 0, end - 1) + 1
        yield start, end
        end = start


def find_lines(lines: bytes, pattern: Any) -> Iterator[tuple[int, int]]:
    """Yield where each line begins and ends in which the pattern is found, the last one first."""
    spans = []
    end = 0
    while end < len(lines) and (match := pattern.search(lines, end)):
        start = lines.rfind(b"\n", end, match.start()) + 1 or end
        end = lines.find(b"\n", match.end()) + 1 or len(lines)
        spans.append((start, end))
    return reversed(spans)


class LogReader:
    """Reads the daily files of a directory backwards; nothing else in it, and no link."""

    def __init__(self, directory: Path, filter: Filter, before: str | None = None) -> None:
        """Find the entries that the filter wants, those before the cursor `<day>.<offset>`."""
        self.directory = directory
        self.filter = filter
        self._pattern = filter.pattern()
        last_day, _, offset = (before or "9999-99-99.0").partition(".")
        days = [day for day in list_days(directory) if day <= last_day and filter.includes_day(day)]
        self.days = days[::-1]
        self._ends = {last_day: int(offset)} if before else {}

    def size(self) -> int:
        """Return how many bytes there are to read."""
        size = 0
        for day in self.days:
            with suppress(OSError):
                size += day_path(self.directory, day).lstat().st_size
        return size

    def oldest(self) -> Iterator[dict[str, Any]]:
        """Yield the first entries of the first day that the filter includes."""
        with suppress(OSError, IndexError), open_file(self._path(self.days[-1])) as fd:
            for line in os.pread(fd, BLOCK, 0).split(b"\n"):
                if entry := parse_line(line)[0]:
                    yield entry

    def find(
        self, on_block: Callable[[int], None] = lambda bytes_read: None
    ) -> Iterator[FoundEntry]:
        """Yield the wanted entries, newest first; tell how many bytes have been read so far."""
        bytes_read = 0
        for day in self.days:
            with suppress(OSError), open_file(self._path(day)) as fd:
                end = os.fstat(fd).st_size
                end = min(end, self._ends.get(day, end))
                for start, lines in read_backwards(fd, end):
                    if self._is_too_old(lines):
                        break
                    yield from self._find_in(day, start, lines)
                    bytes_read += len(lines)
                    on_block(bytes_read)

    def _path(self, day: str) -> Path:
        return day_path(self.directory, day)

    def _is_too_old(self, lines: bytes) -> bool:
        """Return whether these lines, and so all before them, were finished too early."""
        if not self.filter.since:
            return False
        begin, end = next(split_lines(lines))
        entry, _ = parse_line(lines[begin:end])
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            newest = datetime.fromisoformat((entry or {})["finished_at"])
            return newest + DISORDER < datetime.fromisoformat(self.filter.since)
        return False

    def _find_in(self, day: str, start: int, lines: bytes) -> Iterator[FoundEntry]:
        spans: Iterable[tuple[int, int]] = split_lines(lines)
        if self._pattern:
            spans = find_lines(lines, self._pattern)
        view = memoryview(lines)
        for begin, end in spans:
            entry, line = parse_line(view[begin : end - (lines[end - 1] == 10)])
            if entry is not None and self.filter.matches(entry):
                yield FoundEntry(day, start + begin, line, entry)


@contextmanager
def open_file(path: Path) -> Iterator[int]:
    """Open a regular file to read it; raise OSError if it is something else, or a link."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would make us wait
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is no file")
        yield fd
    finally:
        os.close(fd)
