"""Finding entries in the daily files, newest first.

The invariant: files are read backwards in blocks and never kept whole, so memory is bounded by one
line; a loop that goes on to the next entry lets go of the last one (`del`). A line counts when it
is a JSON object: one that is torn, or longer than `MAX_LINE`, is skipped, and so is a file that
disappears or shrinks meanwhile.

Within a day's file lines may be in any order of time: one that could not be written comes late, and
a clock may have been wrong. So only a file's day says that nothing in it can be wanted.
"""

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import orjson

from log.daily_file import day_path, list_days
from log.filter import Filter

BLOCK = 1 << 17
MAX_LINE = 64 << 20
PIECE_BYTES = 1 << 20
MAX_CURSOR = 300
ID_BYTES = 1024
"""Within so many bytes of a line its `id` is found: it is the first key."""

UUID7 = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
OBJECT_BEGINNINGS = b"{ \t\r"
NOT_BLANK = re.compile(rb"\S[^\n]*")
CURSOR = r"^([0-9]{4}-[0-9]{2}-[0-9]{2})\.([0-9]{1,15})(?:\.([^~\n]*)~(.*))?$"


class ReadError(Exception):
    """The log cannot be read; says what happened and what to do."""

    status = os.EX_UNAVAILABLE
    """That of the process which exits for it."""


class FoundEntry(NamedTuple):
    """An entry, and where in the log it is."""

    day: str
    offset: int
    line: bytes | memoryview
    entry: dict[str, Any]
    rest: Iterable[bytes] = ()
    """What follows of a line that is too long to be held."""
    is_last: bool = False
    """Whether there can be no other entry before it."""


@dataclass(frozen=True)
class Cursor:
    """The place of an entry in the log. What comes before it is known even if its file was rotated
    or edited meanwhile."""

    day: str
    offset: int
    finished_at: str = ""
    id: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the cursor that the text says; raise ValueError if it is none."""
        if not (match := re.fullmatch(CURSOR, text)):
            raise ValueError(f"{text!r} is no cursor")
        day, offset, finished_at, id = match.groups()
        return cls(day, int(offset), finished_at or "", id or "")

    @classmethod
    def of(cls, found: FoundEntry) -> Self:
        """Return the place of the entry."""
        finished_at = str(found.entry.get("finished_at") or "")
        id = str(found.entry.get("id") or "")
        cursor = cls(found.day, found.offset, finished_at, id)
        is_ours = len(str(cursor)) <= MAX_CURSOR and re.fullmatch(CURSOR, str(cursor))
        return cursor if is_ours else cls(found.day, found.offset)

    def __str__(self) -> str:
        return f"{self.day}.{self.offset}.{self.finished_at}~{self.id}"


def parse_float(text: str) -> float | str:
    """Return the number; its text where it is too large for one."""
    number = float(text)
    return number if math.isfinite(number) else text


def parse_line(line: bytes | memoryview) -> tuple[dict[str, Any] | None, bytes | memoryview]:
    """Return a line's object, None if it is none, and the line as every JSON parser accepts it."""
    if line and line[0] not in OBJECT_BEGINNINGS:
        return None, line
    try:
        entry = orjson.loads(line)
    except ValueError:  # torn; or with NaN, 1e999 or half a surrogate pair, which clients can send
        try:
            entry = json.loads(str(line, "utf-8"), parse_constant=str, parse_float=parse_float)
        except (ValueError, RecursionError):
            return None, line
        line = json.dumps(entry).encode()
    return (entry if isinstance(entry, dict) else None), line


def read_backwards(fd: int, end: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield where some whole lines begin, the lines, and their length, from `end` back to the
    beginning. Where the length is greater, the last of these lines is the beginning of one that is
    too long."""
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
            if lines:
                yield start + cut, lines, end - start - cut
            end, tail = start + cut, block[:cut]
        else:
            tail = b""
        looked = start


def split_lines(lines: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each line that is not blank begins and ends, the last one first."""
    return reversed([match.span() for match in NOT_BLANK.finditer(lines)])


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

    def __init__(self, directory: Path, filter: Filter, before: Cursor | None = None) -> None:
        """Find the entries that the filter wants, those before the cursor."""
        self.gaps: list[str] = []
        """What could not be read, and is missing: nothing, as what is not a file's is passed by."""
        self._directory = directory
        self._filter = filter
        self._pattern = filter.pattern()
        self._before = before
        days = list_days(directory)
        if before:
            days = [day for day in days if day <= before.day]
        self.days = [day for day in reversed(days) if filter.includes_day(day)]
        if start := find_start(filter.exact.get("id", "")):
            self.days.sort(key=lambda day: abs(to_date(day) - start))

    def size(self) -> int:
        """Return how many bytes there are to read."""
        size = 0
        for day in self.days:
            with suppress(OSError):
                size += day_path(self._directory, day).lstat().st_size
        return size

    def warnings(self) -> list[str]:
        """Return what a reader of the entries should know about their completeness."""
        return self.gaps

    def count(self, on_block: Callable[[int, int], None] = lambda bytes_read, count: None) -> int:
        """Return how many entries are wanted; tell how many bytes and entries there were so far."""
        return count_found(self.find, on_block)

    def find(
        self,
        on_block: Callable[[int], None] = lambda bytes_read: None,
        limit: int | None = None,
    ) -> Iterator[FoundEntry]:
        """Yield the wanted entries, newest first, perhaps more than the limit; tell how many bytes
        have been read so far."""
        bytes_read = 0
        for day in self.days:
            with suppress(OSError), open_file(day_path(self._directory, day)) as fd:
                end, filter = os.fstat(fd).st_size, self._filter
                if self._before and day == self._before.day:
                    end, filter = self._find_end(fd, end)
                for start, lines, length in read_backwards(fd, end):
                    if len(lines) < length:
                        yield from self._find_long(fd, day, start, lines, length)
                    yield from self._find_in(day, start, lines, filter)
                    bytes_read += len(lines)
                    on_block(bytes_read)

    def _find_end(self, fd: int, end: int) -> tuple[int, Filter]:
        """Return where the entry of the cursor begins, and the filter for what is before it.

        A file that does not have it any more is read to its end, for what was finished earlier.
        """
        before = self._before
        assert before
        if not before.id or has_id(os.pread(fd, ID_BYTES, before.offset), before.id):
            return min(before.offset, end), self._filter
        for start, lines, _ in read_backwards(fd, end):
            pattern = re.compile(re.escape(before.id.encode(errors="replace")))
            for begin, _ in find_lines(lines, pattern):
                if has_id(lines[begin : begin + ID_BYTES], before.id):
                    return start + begin, self._filter
        until = min(filter(None, (before.finished_at, self._filter.until)), default=None)
        return end, replace(self._filter, until=until)

    def _find_in(self, day: str, start: int, lines: bytes, filter: Filter) -> Iterator[FoundEntry]:
        spans: Iterable[tuple[int, int]] = split_lines(lines)
        if self._pattern:
            spans = find_lines(lines, self._pattern)
        view = memoryview(lines)
        for begin, end in spans:
            entry, line = parse_line(view[begin : end - (lines[end - 1] == 10)])
            if entry is not None and filter.matches(entry):
                is_last = start + begin == 0 and day == self.days[-1]
                yield FoundEntry(day, start + begin, line, entry, is_last=is_last)

    def _find_long(
        self, fd: int, day: str, start: int, lines: bytes, length: int
    ) -> Iterator[FoundEntry]:
        """Yield the entry of a line that is too long to be held, if it is looked for by its id."""
        id = self._filter.exact.get("id", "")
        line = lines[lines.rfind(b"\n") + 1 :]
        if id and has_id(line[:ID_BYTES], id):
            begin, end = start + len(lines) - len(line), start + length
            end -= os.pread(fd, 1, end - 1) == b"\n"
            rest = read_pieces(fd, start + len(lines), end)
            yield FoundEntry(day, begin, line, {"id": id}, rest)


def count_found(
    find: Callable[[Callable[[int], None]], Iterator[FoundEntry]],
    on_progress: Callable[[int, int], None],
) -> int:
    """Return how many entries are found; tell how many bytes and entries there were so far."""
    count = 0
    for found in find(lambda bytes_read: on_progress(bytes_read, count)):
        count += 1
        del found
    return count


def has_id(line: bytes, id: str) -> bool:
    """Return whether a line, of which this is the beginning, is the entry with the id."""
    key = re.escape(json.dumps(id).encode())
    return re.match(rb'\s*\{\s*"id"\s*:\s*' + key, line) is not None


def read_pieces(fd: int, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes of a file from `start` to `end`."""
    while start < end and (piece := os.pread(fd, min(PIECE_BYTES, end - start), start)):
        start += len(piece)
        yield piece


def find_start(id: str) -> date | None:
    """Return the day on which a request began, as its id says if that is a UUIDv7 (RFC 9562)."""
    if not (match := UUID7.fullmatch(id)):
        return None
    with suppress(OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(int(match[1] + match[2], 16) / 1000, UTC).date()
    return None


def to_date(day: str) -> date:
    """Return the date of a file; a name that is no date counts as the first one."""
    with suppress(ValueError):
        return date.fromisoformat(day)
    return date.min


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
