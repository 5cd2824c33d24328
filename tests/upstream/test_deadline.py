"""The deadline strikes who waits too long, once, and nobody else."""

import asyncio

import pytest

from upstream.deadline import Deadline


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


def test_time_between_waits_does_not_strike_but_counts_unless_it_is_moved() -> None:
    async def main() -> None:
        deadline = Deadline(0.5)
        with deadline:
            await asyncio.sleep(0)
        await asyncio.sleep(0.6)
        with pytest.raises(TimeoutError):
            with deadline:
                await asyncio.sleep(60)
        await asyncio.sleep(0.05)
        deadline.renew(60)
        with deadline:
            await asyncio.sleep(0.05)
        deadline.close()

    asyncio.run(main())


def test_cancellation_from_outside_stays_one() -> None:
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
        made[-1].renew(0)
        made[-1]._on_timer()
        with pytest.raises(asyncio.CancelledError):
            await both

    asyncio.run(main())


def test_extended_deadline_strikes_so_much_later() -> None:
    async def main() -> None:
        deadline = Deadline(0.02)
        deadline.extend(60)
        with deadline:
            await asyncio.sleep(0.1)
        deadline.extend(-60)
        with pytest.raises(TimeoutError):
            with deadline:
                await asyncio.sleep(60)

    asyncio.run(main())


def test_error_inside_goes_through() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            with Deadline(60):
                raise ZeroDivisionError

    asyncio.run(main())
