"""The processes that read the log, one for each search, at most so many at a time.

What a process writes is the body of a response. To stop reading it before its end ends the process.

A client may take a response as slowly as it likes. So a short one is taken from its process at
once, which leaves its place to others; and not all places are for responses that are long.
"""

import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import anyio
from anyio.abc import Process
from pydantic_core import to_json

from log.worker import Job, Kind

MAX_PROCESSES = 8
MAX_LONG = 6
"""How many of them may write responses of more than `SHORT_BYTES`."""

LONG: tuple[Kind, ...] = ("lines", "csv", "messages")
"""Responses that may have any length."""

SHORT_BYTES = 1 << 20
PLACE_SECONDS = 10.0
"""How long a search waits for a place."""

EXIT_SECONDS = 2.0
"""How long a process may take to end once its input has ended; then it is killed."""

COMMAND = [sys.executable, "-m", "log.worker"]
ROOT = Path(__file__).parent.parent


class ReadingProcessError(Exception):
    """A reading process failed; its standard error says why."""

    def __init__(self, status: int) -> None:
        """With the exit status of the process."""
        super().__init__()
        self.status = status


class TooManyReadersError(Exception):
    """As many clients read the log as can at a time."""


class ReadingProcesses:
    """Starts the processes that read the log; further ones wait for a place."""

    def __init__(self) -> None:
        self._places = anyio.Semaphore(MAX_PROCESSES)
        self._long_places = anyio.Semaphore(MAX_LONG)

    async def read(self, job: Job) -> AsyncGenerator[bytes, None]:
        """Yield what a process finds; to close the generator ends the process.

        Raises:
            OSError: no process can be started.
            ReadingProcessError: the process failed.
            TooManyReadersError: no place became free in time.
        """
        is_long = job.kind in LONG
        async with AsyncExitStack() as held:
            if is_long:
                await held.enter_async_context(hold_place(self._long_places))
            await held.enter_async_context(hold_place(self._places))
            found = await held.enter_async_context(aclosing(run_process(job)))
            begin = b""
            if job.kind in ("page", "entry"):
                begin, is_long = await take(found, SHORT_BYTES)
                if is_long:  # without a wait, in which it would keep its first place from others
                    await held.enter_async_context(hold_place(self._long_places, waits=False))
                else:
                    await held.aclose()
            yield begin
            async for data in found:
                yield data


async def take(found: AsyncGenerator[bytes, None], limit: int) -> tuple[bytes, bool]:
    """Return the first bytes, not many more than the limit, and whether there may be more."""
    pieces = []
    size = 0
    async for data in found:
        pieces.append(data)
        size += len(data)
        if size > limit:
            return b"".join(pieces), True
    return b"".join(pieces), False


@asynccontextmanager
async def hold_place(places: anyio.Semaphore, *, waits: bool = True) -> AsyncIterator[None]:
    """Hold one of the places for the length of the block; wait for it, or not.

    Raises:
        TooManyReadersError: none became free in time.
    """
    try:
        if waits:
            with anyio.fail_after(PLACE_SECONDS):
                await places.acquire()
        else:
            places.acquire_nowait()
    except (TimeoutError, anyio.WouldBlock):
        message = "too many clients are reading the log; retry later, or ask for fewer entries"
        raise TooManyReadersError(message) from None
    try:
        yield
    finally:
        places.release()


async def run_process(job: Job) -> AsyncGenerator[bytes, None]:
    """Yield what a process of its own writes for the job.

    Raises:
        OSError: it cannot be started.
        ReadingProcessError: it failed.
    """
    async with open_process() as process:
        assert process.stdin and process.stdout
        with suppress(anyio.BrokenResourceError):  # it has ended; its status says more
            await process.stdin.send(to_json(asdict(job)) + b"\n")
        async for data in process.stdout:
            yield data
        if status := await process.wait():
            raise ReadingProcessError(status)


@asynccontextmanager
async def open_process() -> AsyncIterator[Process]:
    """Run a reading process for the length of the block; kill it if it does not end by itself.

    Raises:
        OSError: it cannot be started.
    """
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    process = await anyio.open_process(
        COMMAND,
        stderr=None,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *inherited]))},
        start_new_session=True,  # a terminal's Ctrl-C is meant for the service, which ends it
    )
    try:
        yield process
    finally:
        with anyio.move_on_after(EXIT_SECONDS):
            await process.aclose()
