"""The load: many streams at once, measured by a client that costs little itself.

Runs in a process of its own. It reads one `Job` as JSON from its standard input and writes one
`Report` as JSON to its standard output. A stream counts only when it is whole: status 200, every
token there (the stand-in puts one `~` into each), and the body ended as HTTP says.
"""

import asyncio
import gc
import json
import re
import statistics
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field

import uvloop

MARK = b"~"
STAMP_DIGITS = 18
END_OF_CHUNKS = b"\r\n0\r\n\r\n"
CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


@dataclass
class Job:
    """What to ask and how often."""

    port: int
    request: str
    """The HTTP request, head and body, as it goes over the wire."""
    tokens: int
    """How many tokens an answer has."""
    streams: int
    opening: float = 0
    """Seconds over which the connections are opened; 0 is all at once."""
    repeat: int = 1
    """How many requests each connection sends, one after the other."""
    stamps: bool = False
    """The tokens are the times at which they were sent."""
    limit: float = 60
    """Seconds after which whatever is still open has failed."""


@dataclass
class Report:
    """What came of a job; times in milliseconds, from before the connect of a new connection."""

    first_ms: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)
    tokens: int = 0
    reads: int = 0
    """How many reads brought something: a proxy for the server's writes."""
    seconds: float = 0
    failures: Counter[str] = field(default_factory=Counter)
    added_ms: list[float] = field(default_factory=list)
    """How long after it was sent each token arrived; the median and the 99th percentile."""


class StreamProtocol(asyncio.Protocol):
    """One connection and its requests."""

    def __init__(self, job: Job, report: Report, added: list[int]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._job = job
        self._report = report
        self._added = added
        self._left = job.repeat
        self._started = time.monotonic()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail("closed before the end")

    def _send(self) -> None:
        self._head = b""
        self._body_left: int | None = None
        self._tail = b""
        self._begun_stamp = b""
        self._tokens = 0
        self._first = 0.0
        self._transport.write(self._job.request.encode())

    def data_received(self, data: bytes) -> None:
        self._report.reads += 1
        if count := data.count(MARK):
            if not self._tokens:
                self._first = time.monotonic()
            self._tokens += count
            if self._job.stamps:
                self._note_stamps(data)
        if self._tail:
            self._read_body(data)
        else:
            self._read_head(data)

    def _read_head(self, data: bytes) -> None:
        self._head += data
        head, end, body = self._head.partition(b"\r\n\r\n")
        if end:
            if not head.startswith(b"HTTP/1.1 200 "):
                self.fail(head.split(b"\r\n")[0].decode())
                return
            if length := CONTENT_LENGTH.search(head):
                self._body_left = int(length[1])
            self._tail = b"\r\n"
            self._read_body(body)

    def _read_body(self, data: bytes) -> None:
        if self._body_left is None:
            self._tail = (self._tail + data[-7:])[-7:]
            whole = self._tail == END_OF_CHUNKS
        else:
            self._body_left -= len(data)
            whole = self._body_left == 0
        if whole:
            self._finish()

    def _note_stamps(self, data: bytes) -> None:
        now = time.monotonic_ns()
        *whole, self._begun_stamp = (self._begun_stamp + data).split(MARK)
        self._added += [now - int(text[-STAMP_DIGITS:]) for text in whole]

    def _finish(self) -> None:
        now = time.monotonic()
        if self._tokens != self._job.tokens:
            self.fail("an answer with tokens lost or too many")
            return
        self._report.tokens += self._tokens
        self._report.first_ms.append((self._first - self._started) * 1000)
        self._report.total_ms.append((now - self._started) * 1000)
        self._left -= 1
        if self._left:
            self._started = time.monotonic()
            self._send()
        else:
            self.ended.set_result(None)
            self._transport.close()

    def fail(self, reason: str) -> None:
        """Count the stream as failed, unless it has ended."""
        if not self.ended.done():
            self._report.failures[reason] += 1
            self._report.tokens += self._tokens
            self.ended.set_result(None)
            self._transport.abort()


async def open_stream(job: Job, report: Report, added: list[int], number: int) -> None:
    """Open one connection at its time and see its requests through."""
    await asyncio.sleep(number / job.streams * job.opening)
    stream = StreamProtocol(job, report, added)
    connect = asyncio.get_running_loop().create_connection(lambda: stream, "127.0.0.1", job.port)
    try:
        await connect
    except OSError as exc:
        report.failures[f"cannot connect: {exc.strerror}"] += 1
        return
    try:
        await stream.ended
    except asyncio.CancelledError:
        stream.fail("not at its end within the limit")
        raise


async def run(job: Job) -> Report:
    """Do the job, within its limit."""
    report, added = Report(), []
    started = time.monotonic()
    tasks = [
        asyncio.create_task(open_stream(job, report, added, number))
        for number in range(job.streams)
    ]
    await asyncio.wait(tasks, timeout=job.limit)
    report.seconds = time.monotonic() - started
    late = [task for task in tasks if not task.done()]
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    if len(added) > 1:
        *_, p99 = statistics.quantiles(added, n=100)
        report.added_ms = [statistics.median(added) / 1e6, p99 / 1e6]
    return report


if __name__ == "__main__":
    gc.disable()  # a collection would look like a late token
    print(json.dumps(asdict(uvloop.run(run(Job(**json.load(sys.stdin)))))))
