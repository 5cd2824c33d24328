"""The load: many streams at once, measured by a client that costs little itself.

Runs in a process of its own. It reads one `Job` as JSON from its standard input and writes one
`Report` as JSON to its standard output. An answer counts only when it is whole: status 200, every
token there (the stand-in puts one `~` into each), and the body ended as HTTP says.
"""

import asyncio
import gc
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import uvloop
from httptools import HttpParserError, HttpResponseParser

MARK = b"~"
PIECE = 1 << 18


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
    beside: str = ""
    """A request for a stream at a fine pace, to be read meanwhile for its longest gap."""
    limit: float = 60
    """Seconds after which whatever is still open has failed."""


@dataclass
class Report:
    """What came of a job; times in milliseconds, from before the connect of a new connection."""

    first_ms: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0
    failures: Counter[str] = field(default_factory=Counter)
    longest_gap_ms: float = 0
    """Between two pieces of the stream beside."""


class Stream(asyncio.Protocol):
    """One connection and its requests, one after the other."""

    def __init__(self, job: Job, report: Report) -> None:
        self.ended = asyncio.Event()
        self.begun = asyncio.Event()
        self._job = job
        self._request = job.request.encode()
        self._report = report
        self._left = job.repeat
        self._tokens = 0
        self._transport: asyncio.Transport | None = None
        self._started = self._last = time.monotonic()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._parser = HttpResponseParser(self)
        self._ask(transport)

    def _ask(self, transport: asyncio.Transport) -> None:
        self._first = 0.0
        self._tokens = 0
        self._send(transport)

    def _send(self, transport: asyncio.Transport, start: int = 0) -> None:
        """Send in pieces, as a network brings them: all at once would hold this process itself."""
        end = start + PIECE
        transport.write(self._request[start:end])
        if end < len(self._request):
            asyncio.get_running_loop().call_later(0.001, self._send, transport, end)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail("closed before the end")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError as exc:
            self.fail(str(exc))

    def on_headers_complete(self) -> None:
        if (status := self._parser.get_status_code()) != 200:
            self.fail(f"status {status}")

    def on_body(self, body: bytes) -> None:
        now = time.monotonic()
        self._tokens += body.count(MARK)
        if self._first:
            gap = (now - self._last) * 1000
            self._report.longest_gap_ms = max(self._report.longest_gap_ms, gap)
        elif self._tokens:
            self._first = now
            self.begun.set()
        self._last = now

    def on_message_complete(self) -> None:
        now = time.monotonic()
        if self._tokens != self._job.tokens:
            self.fail("an answer with tokens lost or too many")
            return
        self._report.tokens += self._tokens
        self._report.first_ms.append((self._first - self._started) * 1000)
        self._report.total_ms.append((now - self._started) * 1000)
        self._left -= 1
        if self._left and self._transport:
            self._started = self._last = time.monotonic()
            self._ask(self._transport)
        else:
            self._end()

    def fail(self, reason: str) -> None:
        """Count the stream as failed, unless it has ended."""
        if not self.ended.is_set():
            self._report.failures[reason] += 1
            self._report.tokens += self._tokens
            self._end()

    def _end(self) -> None:
        self.begun.set()
        self.ended.set()
        if self._transport:
            self._transport.abort()


async def open_stream(job: Job, report: Report, number: int) -> None:
    """Open one connection at its time and see its requests through."""
    await asyncio.sleep(number / job.streams * job.opening)
    stream = Stream(job, report)
    try:
        await connect(job, stream)
        await stream.ended.wait()
    except OSError as exc:
        stream.fail(f"cannot connect: {exc.strerror}")
    except asyncio.CancelledError:
        stream.fail("not at its end within the limit")
        raise


async def connect(job: Job, stream: Stream) -> None:
    """Open the stream's connection."""
    await asyncio.get_running_loop().create_connection(lambda: stream, "127.0.0.1", job.port)


async def put(job: Job, report: Report) -> None:
    """Put the load on the server and note what came back, within the limit."""
    started = time.monotonic()
    tasks = [asyncio.create_task(open_stream(job, report, n)) for n in range(job.streams)]
    await asyncio.wait(tasks, timeout=job.limit)
    report.seconds = time.monotonic() - started
    late = [task for task in tasks if not task.done()]
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)


async def run(job: Job) -> Report:
    """Do the job, with the stream beside it where there is one."""
    report, beside = Report(), Report()
    if job.beside:
        stream = Stream(replace(job, request=job.beside, repeat=1), beside)
        await connect(job, stream)
        await stream.begun.wait()
        beside.longest_gap_ms = 0
    await put(job, report)
    report.longest_gap_ms = beside.longest_gap_ms
    report.failures += beside.failures
    return report


if __name__ == "__main__":
    gc.disable()  # a collection would look like a late token
    print(json.dumps(vars(uvloop.run(run(Job(**json.load(sys.stdin)))))))
