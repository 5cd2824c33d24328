"""A limit on every wait for something that comes again and again, at the price of one timer.

`asyncio.timeout` makes a timer for each wait and cancels it again, which at a token a wait was an
eighth of all that a token cost. Here the timer stays: when it goes off and the deadline has been
moved meanwhile, it is set anew.
"""

import asyncio
from types import TracebackType


class Deadline:
    """A moment by which every wait has to be over: `with deadline:` around each of them.

    Like `asyncio.timeout` it cancels the task that waits and makes a `TimeoutError` of that. While
    nobody waits it does nothing. `close` it when there is nothing more to wait for.
    """

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when the timer goes off
        self._waiting: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._struck = False
        self.move(seconds)

    def move(self, seconds: float) -> None:
        """Put the deadline so many seconds from now."""
        self._when = self._loop.time() + seconds

    def close(self) -> None:
        """Let go of the timer."""
        if self._timer:
            self._timer.cancel()

    def __enter__(self) -> None:
        self._waiting = task = asyncio.current_task()
        assert task is not None
        self._cancelling = task.cancelling()
        if self._timer is None or self._when < self._due:
            self.close()
            self._set()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._waiting = self._waiting, None
        if self._struck:
            self._struck = False
            assert task is not None
            # somebody else may have cancelled the task too, and goes first: asyncio.Timeout's rule
            if task.uncancel() <= self._cancelling and exc_type is asyncio.CancelledError:
                raise TimeoutError from exc

    def _set(self) -> None:
        self._due = self._when
        self._timer = self._loop.call_at(self._due, self._check)

    def _check(self) -> None:
        self._timer = None
        if self._waiting is None:
            return
        if self._loop.time() < self._when:
            self._set()
        else:
            self._struck = True
            self._waiting.cancel()
