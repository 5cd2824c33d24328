"""A time limit for something that is awaited again and again, with one timer for all waits.

`asyncio.timeout` starts and cancels a timer for each wait. With a wait for each token that was 10
to 12 % of what a token costs. Here the timer stays, and is set anew only when it fires early.
"""

import asyncio
import math
from types import TracebackType


class Deadline:
    """A moment by which every wait has to be over: `with deadline:` around each of them.

    Like `asyncio.timeout` it cancels the waiting task, which is the one that made the deadline, and
    turns the cancellation into a `TimeoutError`. Outside the block nothing happens. Call `close`
    when there is nothing more to wait for.
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
        self._has_expired = False
        self.renew(seconds)

    def renew(self, seconds: float) -> None:
        """Move the deadline to `seconds` from now; infinity is no deadline."""
        self._due = self._loop.time() + seconds

    def extend(self, seconds: float) -> None:
        """Move the deadline `seconds` further away."""
        self._due += seconds

    def close(self) -> None:
        """Stop the timer."""
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
        if self._has_expired:
            self._has_expired = False
            # another cancellation of the task takes precedence, as in asyncio.Timeout
            cancelling = self._task.uncancel()
            if cancelling <= self._cancelling_before and exc_type is asyncio.CancelledError:
                raise TimeoutError from exc

    def _start_timer(self) -> None:
        self._timer_due = self._due
        if self._due != math.inf:
            self._timer = self._loop.call_at(self._due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._is_waiting:
            return
        if self._loop.time() < self._due:
            self._start_timer()
        else:
            self._has_expired = True
            self._task.cancel()
