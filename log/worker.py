"""What runs in a reading process: one search, or one count of figures.

So the event loop waits neither for the disk nor for a thread that computes, and a search is stopped
by ending its process. The process reads a `Job` as JSON from its standard input and writes the body
of the response to its standard output. When its input ends, its service is gone, and it ends too.
"""

import json
import os
import select
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

from log.filter import Filter
from log.reader import Cursor, LogReader

LOWEST_PRIORITY = 19
QUICK_BYTES = 8 << 20
"""Within these a page is found; what reads more is a search that can wait for everything else."""


@dataclass(frozen=True)
class Job:
    """What a reading process is to do."""

    kind: Literal["page", "lines", "entry", "figures"]
    directory: str
    filter: Filter
    limit: int | None = None
    before: str | None = None
    """Where an earlier page ended, as a `Cursor` in text."""


def yield_to_others(bytes_read: int) -> None:
    """Lower the priority of a long search; exit if the service has ended."""
    # nothing but its end can arrive on the standard input now
    if select.select([sys.stdin], [], [], 0)[0]:
        sys.exit()
    if bytes_read > QUICK_BYTES:
        os.setpriority(os.PRIO_PROCESS, 0, LOWEST_PRIORITY)


def write_page(reader: LogReader, limit: int, out: BinaryIO) -> None:
    """Write at most `limit` entries, and the cursor to those before them, as one JSON object."""
    out.write(b'{"entries":[')
    cursor, left = None, limit
    for found in islice(reader.find(yield_to_others), limit):
        out.write(b"," if left < limit else b"")
        out.write(found.line)
        left -= 1
        is_last = found.offset == 0 and found.day == reader.days[-1]
        cursor = str(Cursor.of(found)) if not left and not is_last else None
        del found
    out.write(b'],"next":%s}' % json.dumps(cursor).encode())


def write_lines(reader: LogReader, limit: int | None, out: BinaryIO) -> None:
    """Write at most `limit` entries, or all, a line each, as soon as it is found."""
    for found in islice(reader.find(yield_to_others), limit):
        out.write(found.line)
        out.writelines(found.rest)
        out.write(b"\n")
        out.flush()
        del found


def run(job: Job, out: BinaryIO) -> None:
    """Write what the job asks for."""
    before = Cursor.parse(job.before) if job.before else None
    reader = LogReader(Path(job.directory), job.filter, before)
    if job.kind == "page":
        write_page(reader, job.limit or 1, out)
    elif job.kind == "lines":
        write_lines(reader, job.limit, out)
    elif job.kind == "entry":
        write_lines(reader, 1, out)
    else:
        from log.figures import write_figures  # its imports take as long as finding a page

        write_figures(reader, out, yield_to_others)


def main() -> None:
    """Do the job that the standard input names."""
    out = sys.stdout.buffer
    job = json.loads(sys.stdin.buffer.readline())
    try:
        run(Job(**job | {"filter": Filter(**job["filter"])}), out)
        out.flush()
    except BrokenPipeError:
        os._exit(1)  # the interpreter would try to flush once more


if __name__ == "__main__":
    main()
