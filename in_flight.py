"""The generations under way: how many there may be, and when the last one has ended."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from telemetry import metrics


class TooManyRequestsError(Exception):
    """As many generations are in flight as are allowed."""


class InFlight:
    """The generations under way in this process, at most `limit` of them."""

    def __init__(self, limit: int) -> None:
        metrics.IN_FLIGHT_LIMIT.set(limit)
        self._limit = limit
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Count the current task in; raise `TooManyRequestsError` where there is no room."""
        if len(self._tasks) >= self._limit:
            raise TooManyRequestsError(
                f"{self._limit} generations are in flight, the limit that "
                "MINIVAULT_MAX_CONCURRENCY sets; try again later"
            )
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with metrics.IN_FLIGHT.track_inprogress():
                yield
        finally:
            self._tasks.discard(task)

    async def finished(self) -> None:
        """Wait until none is under way."""
        if self._tasks:
            await asyncio.wait(self._tasks)
