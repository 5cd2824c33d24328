"""A limit on waiting for something that comes again and again, at the price of one timer.

`asyncio.timeout` makes a timer for each wait and cancels it again, which at a token a wait was an
eighth of all that a token cost. Here the timer stays: when it goes off and the deadline has been
moved meanwhile, it is set anew.
"""

import asyncio
from types import TracebackType


class Deadline:
    """A moment by which every wait has to be over: `with deadline:` around each of them.

    Like `asyncio.timeout` it cancels the task that waits, the one that made it, and makes a
    `TimeoutError` of that. While it does not wait nothing happens. `close` it when there is nothing
    more to wait for.
    """

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[object] = task
        self._is_waiting = False
        self._cancelling_before = 0
        self._is_over = False
        self.renew(seconds)

    def renew(self, seconds: float) -> None:
        """Put the deadline so many seconds from now."""
        self._due = self._loop.time() + seconds

    def extend(self, seconds: float) -> None:
        """Put the deadline so many seconds later."""
        self._due += seconds

    def close(self) -> None:
        """Let go of the timer."""
        if self._timer:
            self._timer.cancel()

    def __enter__(self) -> None:
        self._is_waiting = True
        self._cancelling_before = self._task.cancelling()
        if self._timer is None or self._due < self._timer_due:
            self.close()
            self._start_timer()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_waiting = False
        if self._is_over:
            self._is_over = False
            # somebody else may have cancelled the task too, and goes first: asyncio.Timeout's rule
            cancelling = self._task.uncancel()
            if cancelling <= self._cancelling_before and exc_type is asyncio.CancelledError:
                raise TimeoutError from exc

    def _start_timer(self) -> None:
        self._timer_due = self._due
        self._timer = self._loop.call_at(self._due, self._end_wait_if_due)

    def _end_wait_if_due(self) -> None:
        self._timer = None
        if not self._is_waiting:
            return
        if self._loop.time() < self._due:
            self._start_timer()
        else:
            self._is_over = True
            self._task.cancel()
