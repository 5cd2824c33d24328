"""A rotator that renames the day's file and then takes its lock gets every answered line once."""

import fcntl
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import DEADLINE, eventually

ROTATIONS = 200

WRITER = """
import asyncio, sys
from pathlib import Path
from logger import JsonlLog
from tests.entries import numbered

async def main(me, directory, fsync):
    async with JsonlLog(Path(directory), fsync=fsync == "True") as log:
        fours = 0
        while not Path(directory, "enough").exists():
            four = [numbered(f"{me}-{fours}-{i}") for i in range(4)]
            await asyncio.gather(*map(log.append, four))
            fours += 1
    print(4 * fours)

asyncio.run(main(*sys.argv[1:]))
"""


def rotate(directory: Path) -> Counter[str]:
    """Take what is in the day's file away, as a rotator does, and return its ids."""
    found: Counter[str] = Counter()
    for path in directory.glob("*.jsonl"):
        if not path.stat().st_size:
            continue
        moved = path.with_suffix(".moved")
        path.rename(moved)
        with moved.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            found.update(json.loads(line)["id"] for line in file)
            moved.unlink()
    return found


@pytest.mark.parametrize("fsync", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_rotator_that_renames_and_locks_gets_every_line_once(
    tmp_path: Path, workers: int, fsync: bool
) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(me), str(directory), str(fsync)],
            env={"PYTHONPATH": os.pathsep.join([".", *sys.path])},
            stdout=subprocess.PIPE,
        )
        for me in range(workers)
    ]
    found: Counter[str] = Counter()
    for _ in range(ROTATIONS):
        found += eventually(lambda: rotate(directory))
    (directory / "enough").touch()
    written = [writer.communicate(timeout=DEADLINE)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * workers
    found += rotate(directory)
    assert len(found) == sum(map(int, written)), "an answered entry is gone"
    assert set(found.values()) == {1}
