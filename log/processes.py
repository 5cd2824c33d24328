"""The processes that read the log: so many at a time, and some ready for the next who asks.

What a process writes is the answer's body. Whoever leaves it before its end ends the process.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import anyio
from anyio.abc import Process
from pydantic_core import to_json

MAX_READERS = 8
MAX_IDLE = 2
WARM_AFTER = 1.0  # seconds: the service's own start goes first
END_SECONDS = 2.0  # in which a process has to end once its input has; then it is killed
END = b"\0"  # of what a process found that can do another job; no JSON holds it
COMMAND = [sys.executable, "-c", "import log.reader; log.reader.main()"]
ROOT = Path(__file__).parent.parent


class ReaderError(Exception):
    """A reading process failed; what it printed says why."""


class LogReaders:
    """The processes that read the log, so many at a time; who comes later waits for a place.

    One that found quickly is kept for the next, and the first is started with the service: Python
    takes longer to start than a page to find.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places = anyio.Semaphore(MAX_READERS)
        self._idle: list[Process] = []

    async def __aenter__(self) -> Self:
        self._leaving = asyncio.Event()
        self._warming = asyncio.create_task(self._warm())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._leaving.set()
        await self._warming
        await asyncio.gather(*map(end, self._idle))

    async def _warm(self) -> None:
        """Have a process ready for whoever reads first; it is never left half started."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WARM_AFTER):
                await self._leaving.wait()
                return
        with suppress(OSError):  # who reads then is told
            async with self._process() as (process, _):
                self._idle.append(process)

    async def read(self, job: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """Yield what a process of its own finds; closed before its end, this ends the process.

        Raises:
            OSError: no process can be started.
            ReaderError: the process failed.
        """
        asked = to_json({"folder": str(self._folder), **job}) + b"\n"
        async with self._places:
            while True:
                async with self._process() as (process, is_new):
                    assert process.stdin and process.stdout
                    began = False
                    with suppress(anyio.BrokenResourceError):  # it has died; its status says so
                        await process.stdin.send(asked)
                    async for data in process.stdout:
                        if found := data.removesuffix(END):
                            began = True
                            yield found
                        if data.endswith(END):
                            self._idle.append(process)
                            return
                    if not await process.wait():
                        return
                    if began or is_new:  # else it was kept, and died meanwhile
                        raise ReaderError

    def _kept(self) -> list[Process]:
        self._idle = [process for process in self._idle if process.returncode is None]
        return self._idle

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[tuple[Process, bool]]:
        is_new = not self._kept()
        process = await start_process() if is_new else self._idle.pop()
        try:
            yield process, is_new
        finally:
            if process not in self._idle[:MAX_IDLE]:
                self._idle = self._idle[:MAX_IDLE]
                await end(process)


async def end(process: Process) -> None:
    """Let a process see its input end; kill one that does not mind, or where this is cancelled."""
    with anyio.move_on_after(END_SECONDS):
        await process.aclose()


async def start_process() -> Process:
    """Start a process that reads; raise OSError where that is impossible.

    In a session of its own: a terminal's Ctrl-C is meant for the service, which ends it.
    """
    return await anyio.open_process(COMMAND, stderr=None, cwd=ROOT, start_new_session=True)
