"""The processes that read the log, one for each search, at most so many at a time.

What a process writes is the body of a response. To stop reading it before its end ends the process.
"""

import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import anyio
from anyio.abc import Process
from pydantic_core import to_json

from log.worker import Job

MAX_PROCESSES = 8
EXIT_SECONDS = 2.0
"""How long a process may take to end once its input has ended; then it is killed."""

COMMAND = [sys.executable, "-m", "log.worker"]
ROOT = Path(__file__).parent.parent


class ReadingProcessError(Exception):
    """A reading process failed; its standard error says why."""


class ReadingProcesses:
    """Starts the processes that read the log; further ones wait for a place."""

    def __init__(self) -> None:
        self._places = anyio.Semaphore(MAX_PROCESSES)

    async def read(self, job: Job) -> AsyncGenerator[bytes, None]:
        """Yield what a process finds; to close the generator ends the process.

        Raises:
            OSError: no process can be started.
            ReadingProcessError: the process failed.
        """
        async with self._places, open_process() as process:
            assert process.stdin and process.stdout
            with suppress(anyio.BrokenResourceError):  # it has ended; its status says more
                await process.stdin.send(to_json(asdict(job)) + b"\n")
            async for data in process.stdout:
                yield data
            if await process.wait():
                raise ReadingProcessError


@asynccontextmanager
async def open_process() -> AsyncIterator[Process]:
    """Run a reading process for the length of the block; kill it if it does not end by itself.

    Raises:
        OSError: it cannot be started.
    """
    process = await anyio.open_process(
        COMMAND,
        stderr=None,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,  # a terminal's Ctrl-C is meant for the service, which ends it
    )
    try:
        yield process
    finally:
        with anyio.move_on_after(EXIT_SECONDS):
            await process.aclose()
