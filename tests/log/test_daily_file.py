"""The log's folder and files, moved, replaced or in the way: made anew, or an error that heals."""

import asyncio
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from logger import JsonlLog, LogUnavailableError
from tests.conftest import eventually
from tests.entries import ENTRY, numbered, readable
from tests.faulty_system import FaultySystem


def test_parent_folder_that_cannot_be_read_is_no_fault_of_the_log(tmp_path: Path) -> None:
    class Private(FaultySystem):
        def open(self, path: Path, *arguments: int) -> int:
            if path == tmp_path:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return os.open(path, *arguments)

    async def main() -> None:
        async with JsonlLog(tmp_path / "logs", fsync=True, system=Private()) as log:
            await log.append(numbered(1))

    asyncio.run(main())
    assert readable(tmp_path / "logs") == {"1": 1}


def test_file_that_is_moved_or_deleted_or_whose_folder_is_replaced_is_made_anew(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "logs"
    path = directory / f"{ENTRY.finished_at[:10]}.jsonl"

    async def main() -> None:
        async with JsonlLog(directory) as log:
            await log.append(numbered(1))
            path.rename(directory / "rotated.jsonl")
            await log.append(numbered(2))
            assert readable(directory) == {"1": 1, "2": 1}
            path.unlink()
            await log.append(numbered(3))
            assert json.loads(path.read_text())["id"] == "3"
            directory.rename(tmp_path / "old")
            await log.append(numbered(4))
            assert json.loads(path.read_text())["id"] == "4"
            directory.rename(tmp_path / "older")
            directory.mkdir()
            await log.append(numbered(5))
            assert json.loads(path.read_text())["id"] == "5"

    asyncio.run(main())


def test_folder_that_cannot_be_made_anew_fails_until_it_can(tmp_path: Path) -> None:
    directory = tmp_path / "logs"

    async def main() -> None:
        async with JsonlLog(directory) as log:
            directory.rename(tmp_path / "old")
            directory.write_text("in the way")
            with pytest.raises(LogUnavailableError, match="Not a directory"):
                await log.append(numbered(1))
            directory.unlink()
            await asyncio.to_thread(eventually, lambda: not log.failure)
            log.check()

    asyncio.run(main())
    assert readable(directory) == {"1": 1}


def test_every_folder_that_was_made_has_its_name_on_the_disk(tmp_path: Path) -> None:
    synced: set[str] = set()

    class Watching(FaultySystem):
        def fsync(self, fd: int) -> None:
            synced.add(os.readlink(f"/proc/self/fd/{fd}"))

    async def main() -> None:
        async with JsonlLog(tmp_path / "a" / "b" / "logs", fsync=True, system=Watching()) as log:
            await log.append(numbered(1))

    asyncio.run(main())
    made = [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "logs"]
    assert {str(folder) for folder in made} <= synced


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/null", path)])
def test_day_s_file_that_is_no_file_is_an_error(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    async def main() -> None:
        make(tmp_path / f"{ENTRY.day}.jsonl")
        async with JsonlLog(tmp_path) as log:
            with pytest.raises(LogUnavailableError, match="regular file|Is a directory"):
                await log.append(numbered(1))

    asyncio.run(main())
