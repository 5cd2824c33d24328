"""Which files of the log are too old to keep, and when that is sure enough to remove them.

A clock can be wrong, at the start or later, and a file that is removed is gone. So days are
counted from the newest entries, and from file to file: a gap that is longer than the whole
retention, which a step of the clock would leave as well, counts as one day. Nothing is removed at
first sight, and more than one file only after an announcement and an hour in which it can be
stopped.
"""

import logging
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path

from log.daily_file import day_path, list_days

LOOK_SECONDS = 60.0
"""How often a look is taken; a file that is removed was too old at two looks at least."""

GRACE_SECONDS = 3600.0
"""How long before its removal more than one file is announced."""

diagnostics = logging.getLogger("minivault")


class Retention:
    """Removes files that are older than so many days; all calls come from one thread."""

    def __init__(self, directory: Path, days: int) -> None:
        """0 days keep all."""
        self._directory = directory
        self._days = days
        self._old: list[Path] = []
        self._next_look = 0.0
        self._removal = 0.0
        self._doubted = ""

    def remove_old_files(self) -> None:
        """Take a look where it is time for one, and remove what has been too old for long enough.

        Raises:
            OSError: a file cannot be removed.
        """
        now = time.monotonic()
        if not self._days or now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        today = datetime.now(UTC).date()
        if self._doubts_clock(today):
            self._old = []
            return
        old = find_old_files(self._directory, today, self._days)
        if old != self._old:
            self._old = old
            self._removal = now + (GRACE_SECONDS if len(old) > 1 else LOOK_SECONDS)
            if len(old) > 1:
                diagnostics.warning(
                    "%d files of the log, %s to %s, are removed in %.0f minutes, as "
                    "MINIVAULT_LOG_RETENTION_DAYS is %d; to keep them, stop the service and "
                    "move them or change the setting",
                    *(len(old), old[0].name, old[-1].name, GRACE_SECONDS / 60, self._days),
                )
        elif old and now >= self._removal:
            for path in remove_files(old):
                diagnostics.info(
                    "removed %s, as MINIVAULT_LOG_RETENTION_DAYS is %d", path, self._days
                )

    def _doubts_clock(self, today: date) -> bool:
        """Return whether the newest entries are so old that the clock may be wrong; say so once."""
        newest = next(iter(list_days_with_entries(self._directory, today)), today)
        if (today - newest).days <= self._days:
            return False
        if self._doubted != str(newest):
            self._doubted = str(newest)
            diagnostics.warning(
                "no file of the log is removed for now: by the clock it is %s, but the newest "
                "entries are of %s; if the clock is right, removal resumes after the next entries",
                *(today, newest),
            )
        return True


def find_old_files(directory: Path, today: date, days: int) -> list[Path]:
    """Return the files of the directory that are older than so many days, the oldest first.

    Regular files alone, no link. Days count from the newest entries; a gap without entries of more
    than so many days counts as one.
    """
    age = 0
    newer: date | None = None
    for day in list_days_with_entries(directory, today):
        if newer is None:  # a clock that went on without entries may be wrong
            gap = min((today - day).days, 1)
        else:
            gap = (newer - day).days
        age += gap if gap <= days else 1
        if age > days:
            old = (each for each in list_days(directory) if each <= str(day))
            return [path for each in old if is_regular(path := day_path(directory, each))]
        newer = day
    return []


def list_days_with_entries(directory: Path, today: date) -> Iterator[date]:
    """Yield the days up to today whose files are not empty, the last one first."""
    for day in reversed(list_days(directory)):
        with suppress(OSError, ValueError):
            if day <= str(today) and day_path(directory, day).lstat().st_size:
                if is_regular(day_path(directory, day)):
                    yield date.fromisoformat(day)


def remove_files(paths: list[Path]) -> Iterator[Path]:
    """Remove files, and yield each that was removed here; another worker may do the same."""
    for path in paths:
        with suppress(FileNotFoundError):
            path.with_suffix(".parquet").unlink(missing_ok=True)  # what `log.compact` made of it
            path.unlink()
            yield path


def is_regular(path: Path) -> bool:
    """Return whether there is a regular file, not a link to one."""
    with suppress(OSError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False
