"""Entries on their way from lines to rows: put in order on the disk, each one once."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import Any, Self

from log.columns import Row, make_row
from log.reader import parse_line


class Spool:
    """Entries of a day in a temporary file; only their keys are held in memory."""

    def __init__(self, day: str) -> None:
        self._day = day
        self._file = TemporaryFile()
        self._places: dict[str, tuple[str, int, int]] = {}
        """For each id its `finished_at`, and where in the file its line begins and ends."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def add(self, entry: dict[str, Any], line: bytes) -> None:
        """Add an entry, unless it is there already: a shipper may send one twice."""
        finished_at, id = find_keys(entry, line, self._day)
        if id not in self._places:
            begin = self._file.tell()
            self._file.write(line)
            self._places[id] = (finished_at, begin, begin + len(line))

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Take back what the block has added if it raises."""
        end, count = self._file.tell(), len(self._places)
        try:
            yield
        except BaseException:
            self._file.seek(end)
            self._file.truncate()
            for id in list(self._places)[count:]:
                del self._places[id]
            raise

    def rows(self, newest: int | None = None) -> Iterator[Row]:
        """Yield the rows in the order of their keys, or only so many of the newest ones."""
        order = sorted((at, id, begin, end) for id, (at, begin, end) in self._places.items())
        for finished_at, id, begin, end in order[-newest:] if newest else order:
            self._file.seek(begin)
            line = self._file.read(end - begin)
            entry, _ = parse_line(line)
            assert entry is not None
            yield make_row(entry, line, finished_at, id)


def find_keys(entry: dict[str, Any], line: bytes, day: str) -> tuple[str, str]:
    """Return `finished_at` and `id`; what takes their places where there are none, or where the
    entry stands with another day's."""
    finished_at, id = entry.get("finished_at"), entry.get("id")
    if not isinstance(finished_at, str) or not re.fullmatch(rf"{day}T[!-}}]*", finished_at):
        finished_at = f"{day}T00:00:00.000000Z"
    if not isinstance(id, str) or not id.isprintable():
        id = "line-" + hashlib.sha256(line).hexdigest()[:32]
    return finished_at, id
