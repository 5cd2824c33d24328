"""Entries in JSON lines become Parquet, which is read faster.

Of a store (`log.store`), the objects of each day are merged into fewer, at last into one. It may
run twice, at once, and be killed anywhere: an object is removed only when another, which has all
of its entries, was written, read back and counted; who reads both sees each entry once.

Of a log folder, each day that is over is written again as `YYYY-MM-DD.parquet` beside its file.
"""

import hashlib
import heapq
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from log.columns import Row
from log.daily_file import day_path, list_days
from log.parquet import check_file, read_back, read_rows, write_parquet
from log.reader import open_file, parse_line
from log.retention import is_regular
from log.spool import Spool
from log.store import PARQUET, DamagedError, LogStore, Objects, StoreError, read_objects

MAX_SPOOLED = 500_000
"""How many entries are put in order at a time; their keys are held in memory."""

LOG_FILE_MODE = 0o600


class CompactError(Exception):
    """What was written is not what was to be written."""


def merge_rows(*sources: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows of sources in the order of their keys, each one once."""
    last = None
    for row in heapq.merge(*sources, key=find_place):
        if find_place(row) != last:
            last = find_place(row)
            yield row


def find_place(row: Row) -> tuple[str, str]:
    """Return the keys by which rows are in order."""
    return row["finished_at"], row["id"]


def choose_files(objects: Objects, is_over: bool) -> list[str]:
    """Return the Parquet files that are merged with new lines.

    Of a day that is over, all. Before that, those that are no larger than what they are merged
    with: so each entry is written a few times, not each time.
    """
    chosen = []
    size = sum(objects.lines.values())
    for path, own in sorted(objects.parquet.items(), key=lambda item: item[1]):
        if is_over or own <= size:
            chosen.append(path)
            size += own
    return chosen


class Compactor:
    """Merges the objects of a store."""

    def __init__(self, store: LogStore, today: str) -> None:
        self._store = store
        self._today = today
        self.problems: list[str] = []
        """What could not be merged, and was left as it is."""

    def run(self) -> None:
        """Merge the objects of all days; raise StoreError if the store cannot be used."""
        for day in self._store.list_days():
            try:
                while self._merge(day):
                    pass
            except FileNotFoundError:  # another one merges them at this moment
                print(f"{day}: objects are being merged by another; left to it")
            except (CompactError, DamagedError, StoreError, OSError, TypeError, ValueError) as exc:
                self.problems.append(f"{day}: {exc}; nothing was removed")

    def _merge(self, day: str) -> bool:
        """Merge objects of a day; return whether there may be more."""
        objects = self._store.list_objects(day)
        files = choose_files(objects, is_over=day < self._today)
        with TemporaryDirectory(prefix="minivault-") as folder, Spool(day) as spool:
            merged = self._spool(spool, objects)
            if not merged and len(files) < 2:
                return False
            held = self._hold(files, Path(folder))
            sources = [*merged, *held]
            if len(sources) < 2 and not merged:
                return False
            result = Path(folder, "result.parquet")
            expected = write_parquet(
                result, merge_rows(spool.rows(), *map(read_rows, held.values()))
            )
            path = name_result(day, sources)
            self._store.put(path, result)
            back = Path(folder, "back.parquet")
            self._store.download(path, back)
            if read_back(back) != expected:
                raise CompactError(f"{path} has not what was written to it")
            size = back.stat().st_size
        self._store.remove(sources)
        print(
            f"{day}: {len(sources):,} objects became one of {size:,} bytes"
            f" with {expected[0]:,} entries"
        )
        return True

    def _hold(self, files: list[str], folder: Path) -> dict[str, Path]:
        """Return copies of Parquet files in a folder, without those that are none."""
        held = {}
        for number, path in enumerate(files):
            copy = folder / f"{number}.parquet"
            self._store.download(path, copy)
            try:
                check_file(copy)
                held[path] = copy
            except DamagedError as exc:
                self._note(path, exc)
        return held

    def _note(self, path: str, exc: DamagedError) -> None:
        problem = f"{path} is damaged, and left as it is: {exc}"
        self.problems += [problem] * (problem not in self.problems)

    def _spool(self, spool: Spool, objects: Objects) -> list[str]:
        """Read the objects that are lines, or many of them; return which were read."""
        merged = []
        for path, lines in read_objects(self._store, objects.lines):
            try:
                with spool.all_or_nothing():
                    add_entries(spool, lines)
            except DamagedError as exc:
                self._note(path, exc)
                continue
            merged.append(path)
            if len(spool) >= MAX_SPOOLED:
                break
        return merged


def add_entries(spool: Spool, lines: Iterable[bytes]) -> None:
    """Add the entries in some lines; raise DamagedError if there are lines, but no entry."""
    found, others = 0, 0
    for line in lines:
        entry, _ = parse_line(line)
        if entry is None:
            others += bool(line.strip())
        else:
            found += 1
            spool.add(entry, line)
    if others and not found:
        raise DamagedError("it has no entries")


def name_result(day: str, sources: list[str]) -> str:
    """Return the name of what is made of these objects: greater than theirs, the same each time."""
    numbers = [int(match[1]) for each in sources if (match := PARQUET.fullmatch(each))]
    digest = hashlib.sha256("\n".join(sorted(sources)).encode()).hexdigest()[:16]
    return f"date={day}/v{max(numbers, default=0) + 1:08d}-{digest}.parquet"


def compact_folder(folder: Path, today: str) -> None:
    """Write each day of a log folder that is over as Parquet, unless that was done."""
    for day in list_days(folder):
        source, result = day_path(folder, day), folder / f"{day}.parquet"
        if day >= today or not is_regular(source) or is_made(result, source):
            continue
        part = folder / f".{day}.parquet"
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, LOG_FILE_MODE))
        with Spool(day) as spool, open_file(source) as fd, open(fd, "rb", closefd=False) as file:
            changed = os.fstat(fd).st_mtime_ns
            add_entries(spool, (line.rstrip(b"\n") for line in file))
            expected = write_parquet(part, spool.rows())
        if read_back(part) != expected:
            raise CompactError(f"{part} has not what was written to it")
        os.utime(part, ns=(changed, changed))  # what came meanwhile is noticed the next time
        part.rename(result)
        print(f"{day}: {expected[0]:,} entries, {result.stat().st_size:,} bytes in {result}")


def is_made(result: Path, source: Path) -> bool:
    """Return whether a file was made of another as it is now: then it has its time."""
    return result.exists() and result.stat().st_mtime_ns == source.stat().st_mtime_ns
