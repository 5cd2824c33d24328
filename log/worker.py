"""What runs in a reading process: one search, or one count of figures.

So the event loop waits neither for the disk nor for a thread that computes, and a search is stopped
by ending its process. The process reads a `Job` as JSON from its standard input and writes the body
of the response to its standard output. When its input ends, its service is gone, and it ends too.
"""

import csv
import dataclasses
import io
import json
import math
import os
import select
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import orjson

from log.entry import LogEntry
from log.filter import Filter
from log.preview import make_preview
from log.progress import Progress
from log.reader import Cursor, FoundEntry, LogReader, ReadError

if TYPE_CHECKING:
    from log.store_reader import StoreReader

LOWEST_PRIORITY = 19
QUICK_BYTES = 8 << 20
"""Within these a page is found; what reads more is a search that can wait for everything else."""


Kind = Literal["page", "lines", "csv", "messages", "entry", "count", "figures"]


@dataclass(frozen=True)
class Job:
    """What a reading process is to do."""

    kind: Kind
    directory: str
    filter: Filter
    source: str | None = None
    """The store with the entries of many pods that is read instead of the directory."""
    limit: int | None = None
    before: str | None = None
    """Where an earlier page ended, as a `Cursor` in text."""
    tz: str | None = None
    """The time zone of days, by its IANA name; None for UTC."""
    fields: list[str] | None = None
    """Which keys of the entries are wanted, in their order, and `preview`; None for all keys."""


def yield_to_others(bytes_read: int) -> None:
    """Lower the priority of a long search; exit if the service has ended."""
    # nothing but its end can arrive on the standard input now
    if select.select([sys.stdin], [], [], 0)[0]:
        sys.exit()
    if bytes_read > QUICK_BYTES:
        os.setpriority(os.PRIO_PROCESS, 0, LOWEST_PRIORITY)


def select_fields(entry: dict[str, Any], fields: list[str], terms: list[str]) -> dict[str, Any]:
    """Return the entry with these keys alone, null where it has none."""
    if "preview" in fields:
        entry = entry | {"preview": make_preview(entry, terms)}
    return {name: entry.get(name) for name in fields}


def encode(value: object) -> bytes:
    """Return a value as JSON."""
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer of more than 64 bits, half a surrogate pair
        return json.dumps(value).encode()


class Writer:
    """Writes what is found, as one kind of response."""

    def __init__(self, job: Job, out: BinaryIO) -> None:
        self.reader = open_reader(job)
        self.job = job
        self.out = out

    def find(self, limit: int | None) -> Iterator[FoundEntry]:
        """Yield what is found, newest first."""
        return islice(self.reader.find(yield_to_others, limit), limit)

    def encode(self, found: FoundEntry) -> bytes | memoryview:
        """Return the line of an entry, or what is wanted of it."""
        if self.job.fields is None:
            return found.line
        return encode(select_fields(found.entry, self.job.fields, self.job.filter.terms))

    def write_page(self) -> None:
        """Write some entries, and the cursor to those before them, as one JSON object.

        How many match in all is known once the whole log has been read.
        """
        limit = self.job.limit or 1
        self.out.write(b'{"entries":[')
        cursor, count = None, 0
        for found in self.find(limit):
            self.out.write(b"," if count else b"")
            self.out.write(self.encode(found))
            count += 1
            cursor = str(Cursor.of(found)) if count == limit and not found.is_last else None
            del found
        total = None if cursor or self.job.before else count
        rest = {"next": cursor, "count": total, "warnings": self.reader.warnings()}
        self.out.write(b"]," + encode(rest)[1:])

    def write_lines(self) -> None:
        """Write entries, a line each, as soon as one is found."""
        for found in self.find(self.job.limit):
            self.write_line(found)
            del found
        self.check_gaps()

    def write_entry(self) -> None:
        """Write the first entry, if there is one."""
        for found in self.find(1):
            return self.write_line(found)
        self.check_gaps()

    def write_line(self, found: FoundEntry) -> None:
        """Write an entry as a line."""
        self.out.write(self.encode(found))
        self.out.writelines(found.rest)
        self.out.write(b"\n")
        self.out.flush()

    def check_gaps(self) -> None:
        """Raise ReadError if something is missing, where there is no other way to say so: then the
        response is refused, or left unfinished."""
        if self.reader.gaps:
            raise ReadError("; ".join(self.reader.gaps))

    def write_messages(self) -> None:
        """Write the complete answers as chat data, a line each."""
        from log.chat_data import make_messages  # as below

        left = self.job.limit or math.inf
        for found in self.find(None):
            if messages := make_messages(found.entry):
                self.out.write(encode({"messages": messages}) + b"\n")
                self.out.flush()
                left -= 1
            del found
            if not left:
                return
        self.check_gaps()

    def write_csv(self) -> None:
        """Write a table (RFC 4180): scalars as they are, the rest as JSON."""
        fields = self.job.fields or [field.name for field in dataclasses.fields(LogEntry)]
        table = io.StringIO()
        rows = csv.writer(table)
        rows.writerow(fields)
        for found in self.find(self.job.limit):
            selected = select_fields(found.entry, fields, self.job.filter.terms)
            rows.writerow(map(to_cell, selected.values()))
            self.out.write(table.getvalue().encode(errors="replace"))
            self.out.flush()
            table.seek(0)
            table.truncate()
            del found
        self.out.write(table.getvalue().encode())
        self.check_gaps()

    def write_count(self) -> None:
        """Write how many entries match, with how far the count is before it is whole."""
        progress = Progress(self.reader.size(), self.out)

        def report(bytes_read: int, count: int) -> None:
            yield_to_others(bytes_read)
            progress.report(bytes_read, count=count)

        count = self.reader.count(report)
        warnings = self.reader.warnings()
        self.out.write(encode({"count": count, "warnings": warnings}) + b"\n")

    def write_figures(self) -> None:
        """Write figures, with how far they are before they are whole."""
        from zoneinfo import ZoneInfo

        zone = ZoneInfo(self.job.tz) if self.job.tz else UTC
        progress = Progress(self.reader.size(), self.out)

        def report(bytes_read: int) -> None:
            yield_to_others(bytes_read)
            progress.report(bytes_read)

        if isinstance(self.reader, LogReader):
            from log.figures import compute_figures  # takes as long as finding a page

            figures = compute_figures(self.reader.find(report), zone)
        else:
            from log.store_figures import compute_store_figures

            figures = compute_store_figures(self.reader, zone, report)
        figures |= {"warnings": self.reader.warnings()}
        # the standard encoder escapes half a surrogate, which a model's name may hold
        self.out.write(json.dumps(figures).encode() + b"\n")


WRITE: dict[Kind, Callable[[Writer], None]] = {
    "page": Writer.write_page,
    "lines": Writer.write_lines,
    "entry": Writer.write_entry,
    "csv": Writer.write_csv,
    "messages": Writer.write_messages,
    "count": Writer.write_count,
    "figures": Writer.write_figures,
}


def to_cell(value: object) -> object:
    """Return a value as a cell of a table: nothing for null, JSON for lists and objects."""
    if value is None or isinstance(value, str):
        return value
    return encode(value).decode()


def open_reader(job: Job) -> "LogReader | StoreReader":
    """Return what finds the entries of a job; raise ReadError if they cannot be read."""
    before = Cursor.parse(job.before) if job.before else None
    if job.source is None:
        return LogReader(Path(job.directory), job.filter, before)
    from log.store_reader import StoreReader  # its packages are for those who have a store

    return StoreReader(job.source, job.filter, before)


def main() -> None:
    """Do the job that the standard input names; exit with a status that says why it failed."""
    out = sys.stdout.buffer
    named = json.loads(sys.stdin.buffer.readline())
    job = Job(**named | {"filter": Filter(**named["filter"])})
    try:
        WRITE[job.kind](Writer(job, out))
        out.flush()
    except ReadError as exc:
        print(f"the log is not read whole: {exc}", file=sys.stderr)
        sys.exit(exc.status)
    except BrokenPipeError:
        os._exit(1)  # the interpreter would try to flush once more


if __name__ == "__main__":
    main()
