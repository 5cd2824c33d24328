"""The deadline strikes who waits too long, once, and nobody else."""

import asyncio

import pytest

from deadline import Deadline


class ClockLoop(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward."""

    put_forward = 0.0

    def time(self) -> float:
        return super().time() + self.put_forward


def test_wait_that_is_too_long_ends_in_a_timeout() -> None:
    async def main() -> None:
        deadline = Deadline(0.02)
        with pytest.raises(TimeoutError):
            with deadline:
                await asyncio.sleep(60)
        current = asyncio.current_task()
        assert current and current.cancelling() == 0
        await asyncio.sleep(0.03)  # it does not strike twice

    asyncio.run(main())


def test_moved_deadline_does_not_strike_at_its_old_time() -> None:
    async def main() -> None:
        deadline = Deadline(0.05)
        for _ in range(10):
            deadline.renew(60)
            with deadline:
                await asyncio.sleep(0.02)
        deadline.renew(0.02)
        with pytest.raises(TimeoutError):
            with deadline:
                await asyncio.sleep(60)

    asyncio.run(main())


def test_only_waits_count_and_they_add_up() -> None:
    loop = ClockLoop()

    async def main() -> None:
        deadline = Deadline(3000)
        for _ in range(2):
            loop.put_forward += 10_000
            with deadline:
                loop.put_forward += 1400
                await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            with deadline:
                loop.put_forward += 1400
                await asyncio.sleep(10)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())


def test_cancellation_from_outside_stays_one() -> None:
    loop = ClockLoop()
    made: list[Deadline] = []

    async def wait(seconds: float) -> None:
        made.append(Deadline(seconds))
        with made[-1]:
            await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(wait(0.02))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        both = asyncio.create_task(wait(60))
        await asyncio.sleep(0)
        both.cancel()
        loop.put_forward += 60
        made[-1]._end_wait_if_due()
        with pytest.raises(asyncio.CancelledError):
            await both

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())


def test_error_inside_goes_through() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            with Deadline(60):
                raise ZeroDivisionError

    asyncio.run(main())
