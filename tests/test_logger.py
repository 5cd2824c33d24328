"""The log in itself: its thread, its daily files, its lines."""

import asyncio
import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import from_json

from logger import JsonlLog
from tests.conftest import read_log
from tests.entries import ENTRY, numbered


class SlowDisk:
    """The operating system with a disk that takes its time, and a count of what it was asked."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.writes = self.syncs = 0

    def write(self, fd: int, data: bytes) -> int:
        self.writes += 1
        time.sleep(self.seconds)
        return os.write(fd, data)

    def fdatasync(self, fd: int) -> None:
        self.syncs += 1
        os.fdatasync(fd)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def test_entry_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    async def main() -> None:
        async with JsonlLog(tmp_path / "logs") as log:
            for number in range(10):
                await log.append(numbered(number))
                assert read_log(tmp_path / "logs")[-1]["id"] == str(number)

    asyncio.run(main())


@pytest.mark.parametrize("fsync", [False, True])
def test_entries_that_arrive_together_share_one_write(tmp_path: Path, fsync: bool) -> None:
    disk = SlowDisk(0.2)

    async def main() -> None:
        async with JsonlLog(tmp_path, fsync=fsync, system=disk) as log:
            disk.syncs = 0
            await asyncio.gather(*(log.append(numbered(number)) for number in range(100)))

    asyncio.run(main())
    # the first may leave alone; all that arrive while it is being written go together
    assert disk.writes <= 2
    assert disk.syncs == (disk.writes if fsync else 0)
    assert [entry["id"] for entry in read_log(tmp_path)] == [str(n) for n in range(100)]


def test_event_loop_does_not_wait_for_a_slow_disk(tmp_path: Path) -> None:
    disk = SlowDisk(0.5)

    async def main() -> None:
        async with JsonlLog(tmp_path, system=disk) as log:
            append = asyncio.create_task(log.append(ENTRY))
            turns = 0
            while not append.done():
                await asyncio.sleep(0.001)
                turns += 1
            assert turns > 20, "the loop stood still while the disk worked"

    asyncio.run(main())


def test_entries_go_to_the_file_of_their_own_day_in_one_batch(tmp_path: Path) -> None:
    days = ["2026-11-23", "2026-11-24"]
    times = [f"{days[0]}T23:59:59.999999Z", f"{days[1]}T00:00:00.000000Z"]

    async def main() -> None:
        async with JsonlLog(tmp_path, system=SlowDisk(0.05)) as log:
            entries = [numbered(n, finished_at=times[n % 10 > 4]) for n in range(100)]
            await asyncio.gather(*(log.append(entry) for entry in entries))

    asyncio.run(main())
    for day, time_of_day in zip(days, times, strict=True):
        lines = (tmp_path / f"{day}.jsonl").read_text().splitlines()
        assert {json.loads(line)["finished_at"] for line in lines} == {time_of_day}
        assert len(lines) == 50


def test_what_is_queued_is_written_at_the_end_though_nobody_waits(tmp_path: Path) -> None:
    async def main() -> None:
        async with JsonlLog(tmp_path, system=SlowDisk(0.1)) as log:
            for number in range(20):
                append = asyncio.create_task(log.append(numbered(number)))
                await asyncio.sleep(0)
                append.cancel()

    asyncio.run(main())
    assert [entry["id"] for entry in read_log(tmp_path)] == [str(n) for n in range(20)]
    assert "log" not in {thread.name for thread in threading.enumerate()}


def test_text_that_is_not_unicode_is_escaped_and_harms_no_other_entry(tmp_path: Path) -> None:
    async def main() -> None:
        async with JsonlLog(tmp_path) as log:
            await log.append(numbered(1, error="caf\udce9"))
            await log.append(numbered(2))

    asyncio.run(main())
    first, second = read_log(tmp_path)
    assert first["error"] == "caf\udce9" and list(first) == list(second)


def test_line_of_what_is_not_unicode_is_json_all_the_same() -> None:
    odd = {"options": {"seed": float("inf")}, "tool_calls": [{"arguments": "\ud800"}]}
    line = replace(ENTRY, prompt="é😀".encode(), request=b'{"a":1}', **odd).to_line()
    found = from_json(line.replace(b"\\ud800", b"?"), allow_inf_nan=False)
    assert (found["prompt"], found["options"], found["request"]) == (
        "é😀",
        {"seed": None},
        {"a": 1},
    )
    assert b'"\\ud800"' in line


def test_folder_that_is_there_keeps_its_mode_and_parents_are_made(tmp_path: Path) -> None:
    async def main(directory: Path) -> None:
        async with JsonlLog(directory) as log:
            await log.append(ENTRY)

    (tmp_path / "logs").mkdir(mode=0o755)
    asyncio.run(main(tmp_path / "logs"))
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o755
    asyncio.run(main(tmp_path / "new" / "logs"))
    assert (tmp_path / "new" / "logs").stat().st_mode & 0o777 == 0o700
