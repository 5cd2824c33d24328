"""Finding entries in the daily files, newest first. Runs in a process of its own, one for a search.

So the event loop waits neither for the disk nor for a thread that computes, and a search is stopped
by ending its process. It reads a `Job` as JSON from its standard input and writes the answer's body
to its standard output; when its input ends, whoever asked is gone, and it goes too.

The invariant: files are read backwards in blocks and never kept whole, so memory is bounded by one
line; a loop that goes on to the next entry lets go of the last (`del`). A line counts when it is a
JSON object: what is torn, or longer than `MAX_LINE`, is passed over, and so is a file that goes or
shrinks meanwhile.
"""

import json
import math
import os
import re
import select
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import orjson

from log.filter import Filter

BLOCK = 1 << 17
MAX_LINE = 64 << 20
DISORDER = timedelta(minutes=10)  # of lines in a file, where one process was held up in writing
LOWEST_PRIORITY = 19
QUICK_BYTES = 8 << 20  # until then a page is found, or else it is a search that can wait
END = b"\0"  # of an answer after which another job can come
DAILY_FILE = re.compile(r"(\d{4}-\d\d-\d\d)\.jsonl")


@dataclass(frozen=True)
class Job:
    """What a reading process is to do."""

    kind: Literal["page", "lines", "figures"]
    folder: str
    filter: Filter
    limit: int | None = None
    before: str | None = None
    """Where an earlier page ended: `<day>.<offset in its file>`."""


class Found(NamedTuple):
    """An entry, and where in the log it stands."""

    day: str
    offset: int
    line: bytes | memoryview
    entry: dict[str, Any]


def finite(text: str) -> float | str:
    """Return the number; as text where it is too large for one."""
    number = float(text)
    return number if math.isfinite(number) else text


def parse(line: bytes | memoryview) -> tuple[dict[str, Any] | None, bytes | memoryview]:
    """Return a line's object, None where it is none, and the line as every JSON parser takes it."""
    try:
        entry = orjson.loads(line)
    except ValueError:  # torn; or with NaN, 1e999 or half a surrogate pair, which clients can send
        try:
            entry = json.loads(str(line, "utf-8"), parse_constant=str, parse_float=finite)
        except (ValueError, RecursionError):
            return None, line
        line = json.dumps(entry).encode()
    return (entry if isinstance(entry, dict) else None), line


def whole_lines(fd: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield pieces of whole lines and where each begins, from `end` back to the beginning."""
    looked = end
    tail = (
        b""  # of a line, up to `end`; a line that is longer than a block is read again as a whole
    )
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
            if lines:  # of a line that is too long the beginning, which is as good as torn
                yield start + cut, lines
            end, tail = start + cut, block[:cut]
        else:
            tail = b""
        looked = start


def all_spans(lines: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each line begins and ends, the last one first."""
    end = len(lines)
    while end > 0:
        start = lines.rfind(b"\n", 0, end - 1) + 1
        yield start, end
        end = start


def matching_spans(lines: bytes, pattern: Any) -> Iterator[tuple[int, int]]:
    """Yield the same of the lines that the pattern finds."""
    spans = []
    end = 0
    while end < len(lines) and (match := pattern.search(lines, end)):
        start = lines.rfind(b"\n", end, match.start()) + 1 or end
        end = lines.find(b"\n", match.end()) + 1 or len(lines)
        spans.append((start, end))
    return reversed(spans)


class LogReader:
    """Reads a folder's daily files, backwards. Nothing else in it is read, no link followed."""

    def __init__(self, folder: Path, filter: Filter, before: str | None = None) -> None:
        self.folder = folder
        self.filter = filter
        self._pattern = filter.pattern()
        last_day, _, offset = (before or "9999-99-99.0").partition(".")
        names = [match[1] for name in self._names() if (match := DAILY_FILE.fullmatch(name))]
        days = sorted((day for day in names if day <= last_day), reverse=True)
        self.days = [day for day in days if filter.includes_day(day)]
        self._ends = {last_day: int(offset)} if before else {}

    def _path(self, day: str) -> Path:
        return self.folder / f"{day}.jsonl"

    def _names(self) -> list[str]:
        with suppress(OSError):
            return os.listdir(self.folder)
        return []

    def size(self) -> int:
        """Return how many bytes there are to read."""
        size = 0
        for day in self.days:
            with suppress(OSError):
                size += (self._path(day)).lstat().st_size
        return size

    def oldest(self) -> Iterator[dict[str, Any]]:
        """Yield the first entries of the first day that can be meant, whatever the filter."""
        with suppress(OSError, IndexError), opened(self._path(self.days[-1])) as fd:
            for line in os.pread(fd, BLOCK, 0).split(b"\n"):
                if entry := parse(line)[0]:
                    yield entry

    def find(self, on_block: Callable[[int], None] | None = None) -> Iterator[Found]:
        """Yield the entries that are meant, newest first; say how many bytes have been read."""
        bytes_read = 0
        for day in self.days:
            with suppress(OSError), opened(self._path(day)) as fd:
                end = os.fstat(fd).st_size
                end = min(end, self._ends.get(day, end))
                for start, lines in whole_lines(fd, end):
                    if self._is_older(lines):
                        break
                    yield from self._matches(day, start, lines)
                    bytes_read += len(lines)
                    if on_block:
                        on_block(bytes_read)
                    leave_with_the_service()
                    if bytes_read > QUICK_BYTES:
                        os.setpriority(os.PRIO_PROCESS, 0, LOWEST_PRIORITY)

    def _is_older(self, lines: bytes) -> bool:
        """Return whether these lines, and so all before them, are too old to be meant."""
        if not self.filter.since:
            return False
        begin, end = next(all_spans(lines))
        entry, _ = parse(lines[begin:end])
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            newest = datetime.fromisoformat((entry or {})["finished_at"])
            return newest + DISORDER < datetime.fromisoformat(self.filter.since)
        return False

    def _matches(self, day: str, start: int, lines: bytes) -> Iterator[Found]:
        spans: Iterable[tuple[int, int]] = all_spans(lines)
        if self._pattern:
            spans = matching_spans(lines, self._pattern)
        view = memoryview(lines)
        for begin, end in spans:
            entry, line = parse(view[begin : end - (lines[end - 1] == 10)])
            if entry is not None and self.filter.matches(entry):
                yield Found(day, start + begin, line, entry)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a regular file to read it; raise OSError where it is something else, a link too."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would have us wait
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is no file")
        yield fd
    finally:
        os.close(fd)


def leave_with_the_service() -> None:
    """Exit where the service has gone: now nothing but its end can come on the standard input."""
    if select.select([sys.stdin], [], [], 0)[0]:
        sys.exit()


def write_page(reader: LogReader, limit: int, out: BinaryIO) -> None:
    """Write so many entries, and the cursor to those before them, as one JSON object."""
    out.write(b'{"entries":[')
    cursor, left = None, limit
    for found in islice(reader.find(), limit):
        out.write(b"," if left < limit else b"")
        out.write(found.line)
        left -= 1
        is_last = found.offset == 0 and found.day == reader.days[-1]
        cursor = f"{found.day}.{found.offset}" if not left and not is_last else None
        del found
    out.write(b'],"next":%s}' % json.dumps(cursor).encode())


def write_lines(reader: LogReader, limit: int | None, out: BinaryIO) -> None:
    """Write so many entries, or all, a line each, each as soon as it is found."""
    for found in islice(reader.find(), limit):
        out.write(found.line)
        out.write(b"\n")
        out.flush()
        del found


def do(job: Job, out: BinaryIO) -> None:
    """Do what the service asks for."""
    reader = LogReader(Path(job.folder), job.filter, job.before)
    if job.kind == "page":
        write_page(reader, job.limit or 1, out)
    elif job.kind == "lines":
        write_lines(reader, job.limit, out)
    else:
        from log.figures import write_figures  # what it needs takes as long to import as a page

        write_figures(reader, out)


def main() -> None:
    """Do the jobs that come on the standard input, until one lasts.

    After that one the process has a low priority, which cannot be taken back.
    """
    out = sys.stdout.buffer
    try:
        while line := sys.stdin.buffer.readline():
            job = json.loads(line)
            do(Job(**job | {"filter": Filter(**job["filter"])}), out)
            if os.getpriority(os.PRIO_PROCESS, 0) == LOWEST_PRIORITY:
                break
            out.write(END)
            out.flush()
        out.flush()
    except BrokenPipeError:
        os._exit(1)  # the interpreter would try to flush once more
