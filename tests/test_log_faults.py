"""The log's promises with every fault made at every write: nothing acknowledged is ever lost."""

import asyncio
import errno
import json
import os
from itertools import chain, repeat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import logger
from logger import JsonlLog, LogUnavailableError
from tests.conftest import eventually
from tests.entries import numbered, readable
from tests.faulty_system import Fault, FaultySystem, failing, short, torn_by_a_kill

LINE = len(numbered(0).to_line())


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger, "RETRY_SECONDS", 0.01)


async def append_all(log: JsonlLog, rounds: int, together: int, first: int = 0) -> set[str]:
    """Append entries, some at a time, and return the ids of those that were acknowledged."""
    acknowledged = set()
    for number in range(rounds):
        entries = [numbered(first + 100 * number + n) for n in range(together)]
        results = await asyncio.gather(*map(log.append, entries), return_exceptions=True)
        for entry, result in zip(entries, results, strict=True):
            if result is None:
                acknowledged.add(entry.id)
            else:
                assert isinstance(result, LogUnavailableError)
    return acknowledged


def run_with(directory: Path, system: FaultySystem, rounds: int = 4, together: int = 3) -> set[str]:
    """Run a log over the system and close it; return what was acknowledged."""

    async def main() -> set[str]:
        async with JsonlLog(directory, system=system) as log:
            acknowledged = await append_all(log, rounds, together)
            await asyncio.to_thread(eventually, lambda: not log.failure)
            return acknowledged

    return asyncio.run(main())


def at(position: int, fault: Fault) -> FaultySystem:
    """Return a system whose write number `position` fails so."""
    return FaultySystem(chain(repeat(None, position), [fault]))


SIZES = [0, 1, LINE // 2, LINE - 1, LINE, LINE + 1, 2 * LINE - 1, 2 * LINE]
FAULTS = [*map(short, SIZES), failing(errno.ENOSPC), failing(errno.EIO), failing(errno.EDQUOT)]


@pytest.mark.parametrize("fault", FAULTS)
def test_whichever_write_fails_every_entry_is_there_once(tmp_path: Path, fault: Fault) -> None:
    for position in range(6):
        directory = tmp_path / str(position)
        acknowledged = run_with(directory, at(position, fault))
        found = readable(directory)
        assert (
            set(found.values()) == {1} and len(found) == 12
        ), "an entry is missing or stands twice"
        assert acknowledged <= found.keys()


@given(
    faults=st.lists(
        st.none() | st.sampled_from(FAULTS) | st.integers(0, 4 * LINE).map(short), max_size=12
    )
)
@settings(max_examples=60)
def test_in_whatever_order_writes_fail_every_entry_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, faults: list[Fault | None]
) -> None:
    directory = tmp_path_factory.mktemp("logs")
    acknowledged = run_with(directory, FaultySystem(iter(faults)))
    found = readable(directory)
    assert set(found.values()) == {1} and len(found) == 12
    assert acknowledged <= found.keys()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("size", SIZES)
def test_after_a_kill_in_any_write_a_restart_reads_every_acknowledged_entry_once(
    tmp_path: Path, size: int
) -> None:
    for position in range(4):
        directory = tmp_path / str(position)
        acknowledged: set[str] = set()

        async def first_life() -> None:
            system = at(position, torn_by_a_kill(size))
            async with JsonlLog(directory, system=system, timeout=0.2) as log:
                for number in range(10):
                    await log.append(numbered(number))
                    acknowledged.add(str(number))

        with pytest.raises(LogUnavailableError):
            asyncio.run(first_life())
        assert len(acknowledged) == position
        torn = b"".join(path.read_bytes() for path in directory.iterdir())

        async def second_life() -> set[str]:
            async with JsonlLog(directory) as log:
                return await append_all(log, 1, 3, first=1000)

        acknowledged |= asyncio.run(second_life())
        found = readable(directory)
        assert len(acknowledged) == position + 3 and acknowledged <= found.keys()
        # the entry that the kill met may be there, though nobody was told
        assert found.keys() <= acknowledged | {str(position)} and set(found.values()) == {1}
        after = b"".join(path.read_bytes() for path in directory.iterdir())
        assert after.startswith(torn), "the torn bytes did not stay where they were"


def test_power_cut_loses_no_acknowledged_entry_with_fsync(tmp_path: Path) -> None:
    for position, fault in enumerate([None, *FAULTS]):
        directory = tmp_path / "new" / str(position)
        system = FaultySystem(chain(repeat(None, 2), [fault]))

        async def main() -> set[str]:
            async with JsonlLog(directory, fsync=True, system=system) as log:
                acknowledged = await append_all(log, 4, 3)
                system.lose_power(directory)
                return acknowledged

        acknowledged = asyncio.run(main())
        found = readable(directory)
        assert acknowledged and acknowledged <= found.keys()


def test_entry_that_no_sync_covered_is_not_acknowledged_and_not_written_twice(
    tmp_path: Path,
) -> None:
    system = FaultySystem()

    async def main() -> None:
        async with JsonlLog(tmp_path, fsync=True, system=system) as log:
            system.sync_fails = True
            with pytest.raises(LogUnavailableError, match="Input/output error"):
                await log.append(numbered(1))
            assert log.failure
            system.sync_fails = False
            await asyncio.to_thread(eventually, lambda: not log.failure)
            await log.append(numbered(2))

    asyncio.run(main())
    assert readable(tmp_path) == {"1": 1, "2": 1}


def test_full_disk_refuses_keeps_and_writes_first_when_space_returns(tmp_path: Path) -> None:
    system = FaultySystem()

    async def main() -> None:
        async with JsonlLog(tmp_path, system=system) as log:
            system.is_full = True
            log.check()
            with pytest.raises(LogUnavailableError, match="No space left on device") as failure:
                await log.append(numbered(1))
            assert str(tmp_path) in str(failure.value)
            with pytest.raises(LogUnavailableError):
                log.check()
            system.is_full = False
            await asyncio.to_thread(eventually, lambda: not log.failure)
            log.check()
            await log.append(numbered(2))

    asyncio.run(main())
    (path,) = tmp_path.iterdir()
    first, second = map(json.loads, path.read_text().splitlines())
    assert (first["id"], second["id"]) == ("1", "2")
    assert first["status"] == "error" and "No space left" in first["error"]
    assert second["status"] == "ok"


def test_cancelled_entry_stays_cancelled_when_it_is_written_late(tmp_path: Path) -> None:
    system = FaultySystem()

    async def main() -> None:
        async with JsonlLog(tmp_path, system=system) as log:
            system.is_full = True
            with pytest.raises(LogUnavailableError):
                await log.append(numbered(1, status="cancelled"))
            system.is_full = False

    asyncio.run(main())
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["status"] == "cancelled"


def test_what_a_stop_cannot_write_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    system = FaultySystem()

    async def main() -> None:
        async with JsonlLog(tmp_path, system=system) as log:
            system.is_full = True
            with pytest.raises(LogUnavailableError):
                await log.append(numbered(77))

    asyncio.run(main())
    assert "1 entries not written: 77" in caplog.text


def test_a_fault_of_any_other_kind_does_not_end_the_thread(tmp_path: Path) -> None:
    def bug(fd: int, data: bytes) -> int:
        raise ZeroDivisionError("a bug")

    acknowledged = run_with(tmp_path, at(1, bug))
    assert len(readable(tmp_path)) == 12 and len(acknowledged) == 9


TORN = [b'{"id": "torn', b"\x00" * 4096, b'{"id": "unended"}', b"\n\n{", "é".encode()[:1]]


@pytest.mark.parametrize("tail", TORN)
@pytest.mark.parametrize("when", ["at start", "while running", "in another day's file"])
def test_torn_tail_is_closed_and_stays_where_it_is(tmp_path: Path, tail: bytes, when: str) -> None:
    before = numbered(1).to_line()
    day = logger.format_timestamp(logger.datetime.now(logger.UTC))[:10]
    day = "2020-02-29" if when == "in another day's file" else day
    path = tmp_path / f"{day}.jsonl"

    async def main() -> None:
        if when != "while running":
            path.write_bytes(before + tail)
        async with JsonlLog(tmp_path) as log:
            if when == "at start":
                assert path.read_bytes() == before + tail + b"\n"
            if when == "while running":
                path.write_bytes(before + tail)
            await log.append(numbered(2, finished_at=f"{day}T12:00:00.000000Z"))

    asyncio.run(main())
    after = numbered(2, finished_at=f"{day}T12:00:00.000000Z").to_line()
    assert path.read_bytes() == before + tail + b"\n" + after


def test_start_on_a_large_file_does_not_read_it(tmp_path: Path) -> None:
    path = tmp_path / f"{logger.format_timestamp(logger.datetime.now(logger.UTC))[:10]}.jsonl"
    with path.open("wb") as file:
        file.truncate(2**30)  # a gigabyte of holes, and no line end
    read = 0

    class Counting(FaultySystem):
        def pread(self, fd: int, size: int, offset: int) -> bytes:
            nonlocal read
            read += size
            return os.pread(fd, size, offset)

    run_with(tmp_path, Counting(), rounds=1)
    assert 0 < read < 100
    with path.open("rb") as file:
        file.seek(2**30)
        assert file.read(1) == b"\n"
        assert len(file.readlines()) == 3


def test_memory_is_bounded_by_the_callers_that_wait(tmp_path: Path) -> None:
    """A caller goes on only when its entry is away, so no more are kept than there are callers."""
    system = FaultySystem()
    kept: list[int] = []

    async def main() -> None:
        async with JsonlLog(tmp_path, system=system) as log:
            system.is_full = True
            refused = await append_all(log, 1, 50)
            assert refused == set()
            for _ in range(30):
                await asyncio.sleep(0.01)
                with pytest.raises(LogUnavailableError):
                    log.check()
                kept.append(log._queue.qsize())
            system.is_full = False

    asyncio.run(main())
    assert set(kept) == {0} and sum(readable(tmp_path).values()) == 50


def test_entry_that_does_not_fit_holds_up_no_other_and_leaves_nothing(tmp_path: Path) -> None:
    class Small(FaultySystem):
        """A file system with room for so many bytes."""

        room = 20_000

        def write(self, fd: int, data: bytes) -> int:
            fits = min(len(data), self.room - os.fstat(fd).st_size)
            if not fits:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return os.write(fd, data[:fits])

    system = Small()
    large = numbered(1, prompt="x" * 100_000)

    async def main() -> None:
        async with JsonlLog(tmp_path, system=system) as log:
            with pytest.raises(LogUnavailableError, match="No space left"):
                await log.append(large)
            (path,) = tmp_path.iterdir()
            for number in range(2, 10):
                log.check()
                await log.append(numbered(number))
                await asyncio.sleep(0.02)  # tries of the large one pass meanwhile
            assert path.stat().st_size == 8 * LINE, "a try that did not fit left something"
            system.room = 1_000_000
            await asyncio.to_thread(eventually, lambda: path.stat().st_size > 100_000)

    asyncio.run(main())
    found = {entry["id"]: entry["status"] for entry in map(json.loads, lines_of(tmp_path))}
    assert found.pop("1") == "error" and found == {str(n): "ok" for n in range(2, 10)}


def lines_of(directory: Path) -> list[bytes]:
    """Return the lines of the only file."""
    (path,) = directory.iterdir()
    return path.read_bytes().splitlines()


def test_deleting_the_file_of_a_full_disk_helps(tmp_path: Path) -> None:
    system = FaultySystem()

    async def main() -> None:
        async with JsonlLog(tmp_path, system=system) as log:
            await log.append(numbered(1))
            system.is_full = True
            with pytest.raises(LogUnavailableError):
                await log.append(numbered(2))
            (path,) = tmp_path.iterdir()
            open_files = Path("/proc/self/fd").iterdir()
            assert str(path) not in {os.path.realpath(each) for each in open_files}
            path.unlink()
            system.is_full = False
            await asyncio.to_thread(eventually, lambda: not log.failure)
            await log.append(numbered(3))

    asyncio.run(main())
    assert readable(tmp_path) == {"2": 1, "3": 1}
