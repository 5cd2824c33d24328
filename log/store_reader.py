"""Finding entries in a store, newest first: the counterpart of `log.reader` for many pods.

Entries are in the order of `finished_at` and `id`; so a place in it is known whatever happens to
the objects, and a search goes on there when they were merged meanwhile. The engine finds what may
be wanted, `Filter` decides, as it does for files. What was not merged yet is read line by line, and
what is wanted of it is put into a file of the same columns beside the others.
"""

import operator
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import IO, Self, TypeVar

from log.columns import TYPES, Row, encode_json, read_row
from log.conditions import make_conditions, name_column
from log.engine import Engine, make_table
from log.entry import format_timestamp
from log.filter import Filter, has_part
from log.reader import Cursor, FoundEntry, count_found, find_start, parse_line, to_date
from log.spool import Spool, find_keys
from log.store import DamagedError, LogStore, StoreError, read_objects

Result = TypeVar("Result")
Place = tuple[str, str]
"""`finished_at` and `id`."""

END: Place = ("\U0010ffff", "")
FIRST_KEYS = 64
MAX_KEYS = 4096
BATCH_BYTES = 16 << 20
MAX_DAYS = 8
"""How many days are searched at a time at most; the first one is alone."""

MAX_TRIES = 20
MAX_PAUSE = 1.0
NOTHING = "The store has no entries; if pods have shipped some, check MINIVAULT_LOG_SOURCE."
VANISHING = "the objects of the log vanish while they are read, again and again; retry later"
"""Objects that are merged while they are read vanish; then they are listed once more."""

SHIPPING = timedelta(minutes=1)
NOT_YET = "What was answered in the last minute may not have come from the pods yet."


@dataclass
class Group:
    """The files of some days, as the engine reads them."""

    single: dict[str, set[str]] = field(default_factory=dict)
    """Files that are a whole day, and their columns; in one file no entry is twice."""
    several: list[dict[str, set[str]]] = field(default_factory=list)
    """For each other day the files that it consists of, the smallest first."""
    size: int = 0

    @property
    def table(self) -> str:
        """All rows, as a table of SQL."""
        return make_table(reduce(operator.or_, self.several, self.single))

    @property
    def distinct(self) -> str:
        """The rows of all entries, each one once."""
        tables = [f"SELECT * FROM {make_table(self.single)}"] * bool(self.single)
        for day in self.several:
            earlier: dict[str, set[str]] = {}
            for file, columns in day.items():
                # what is held are the ids of all but the largest file
                others = f" ANTI JOIN (SELECT id FROM {make_table(earlier)}) USING (id)"
                table = make_table({file: columns})
                tables.append(f"SELECT * FROM {table}{others if earlier else ''}")
                earlier[file] = columns
        return f"({' UNION ALL '.join(tables)})"


class StoreReader:
    """Reads the entries of a bucket, or of a folder of the same layout."""

    def __init__(self, url: str, filter: Filter, before: Cursor | None = None) -> None:
        """Find the entries that the filter wants, those before the cursor.

        Raises:
            StoreError: the store cannot be read.
        """
        self.gaps: list[str] = []
        """What could not be read; the entries in it are missing."""
        self._damaged: set[str] = set()
        self._store = LogStore(url)
        self._engine = Engine(self._store)
        self.query = self._engine.query
        self.filter = filter
        self._pattern = filter.pattern()
        self._place = END
        if before:
            self._place = find_keys(
                {"finished_at": before.finished_at or None, "id": before.id}, b"", before.day
            )
        recent = format_timestamp(datetime.now(UTC) - SHIPPING)
        self._is_recent = not before and (not filter.until or filter.until > recent)
        days = self._store.list_days()
        self._is_empty = not days
        days = [day for day in days if filter.includes_day(day)]
        if before:
            days = [day for day in days if day <= before.day]
        self.days = days
        if start := find_start(filter.exact.get("id", "")):
            self.days.sort(key=lambda day: abs(to_date(day) - start))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._engine.close()

    def warnings(self) -> list[str]:
        """Return what a reader of the entries should know about their completeness."""
        return self.gaps + [NOTHING] * self._is_empty + [NOT_YET] * self._is_recent

    def find(
        self,
        on_progress: Callable[[int], None] = lambda bytes_read: None,
        limit: int | None = None,
    ) -> Iterator[FoundEntry]:
        """Yield the wanted entries, newest first, perhaps more than the limit; tell how many bytes
        there were in what has been read so far.

        Raises:
            StoreError: the store cannot be read.
        """
        bytes_read = 0
        left = self.days
        count = 1
        while left:
            days, left = left[:count], left[count:]
            count = min(count * 2, MAX_DAYS)
            for tries in range(MAX_TRIES):
                with self._tolerate(days, tries):
                    group = self._open(days, limit and limit + 1)
                    if group.single or group.several:
                        yield from self._find_in(group, limit, is_last=not left)
                    bytes_read += group.size
                    break
            else:
                raise StoreError(VANISHING)
            on_progress(bytes_read)

    @contextmanager
    def _tolerate(self, days: list[str], tries: int) -> Iterator[None]:
        """Let the block be tried again after some time if an object has vanished, or a file was
        found to be damaged; that is left out then."""
        try:
            yield
        except FileNotFoundError:
            time.sleep(min(0.05 * 2**tries, MAX_PAUSE))
        except DamagedError as exc:
            damaged = list(self._find_damaged(days))
            if not damaged:
                raise StoreError(str(exc)) from exc
            self._damaged.update(damaged)

    def _find_damaged(self, days: list[str]) -> Iterator[str]:
        """Yield the files of some days that cannot be read to their end."""
        for day in days:
            for path in self._store.list_objects(day).parquet:
                try:
                    self._engine.read_whole(f"log://{path}")
                except DamagedError as exc:
                    self._note(f"{path} cannot be read: {exc}")
                    yield path

    def aggregate(self, compute: Callable[[Group, str, list[str]], Result]) -> Result | None:
        """Return what is computed of the files of all days, the condition that exactly the wanted
        rows meet, and its values; None if there are no files.

        Raises:
            StoreError: the store cannot be read.
        """
        assert not self.filter.terms, "only `Filter` can tell whether a text matches"
        for tries in range(MAX_TRIES):
            with self._tolerate(self.days, tries):
                group = self._open(self.days)
                if not group.single and not group.several:
                    return None
                return compute(group, *self._make_exact_conditions(group))
        raise StoreError(VANISHING)

    def size(self) -> int:
        """Return how many bytes there are to read by a search of texts, which alone says how far it
        is; raise StoreError if the store cannot be read."""
        if not self.filter.terms:
            return 0
        return sum(self._store.list_objects(day).size for day in self.days)

    def count(
        self, on_progress: Callable[[int, int], None] = lambda bytes_read, count: None
    ) -> int:
        """Return how many entries are wanted; raise StoreError if the store cannot be read."""
        if self.filter.terms:  # only `Filter` can tell what matches a text
            return count_found(self.find, on_progress)

        def count_rows(group: Group, conditions: str, values: list[str]) -> int:
            sql = f"SELECT count(*) FROM {group.distinct} WHERE {conditions}"
            return int(self.query(sql, *values)[0][0])

        return self.aggregate(count_rows) or 0

    def _open(self, days: list[str], limit: int | None = None) -> Group:
        """Make the files of some days ready.

        Of the entries that are not merged, those that are wanted, or the newest ones.
        """
        group = Group()
        for day in days:
            try:
                objects = self._store.list_objects(day)
            except DamagedError as exc:
                self._note(f"date={day}: {exc}")
                continue
            group.size += objects.size
            self._note(*(f"{path} is no part of a log" for path in objects.foreign))
            files: dict[str, set[str]] = {}
            if objects.lines and (file := self._read_lines(day, objects.lines, limit)):
                files[self._engine.hold(file)] = set(TYPES)
            for path in sorted(objects.parquet, key=objects.parquet.__getitem__):
                if path in self._damaged:
                    continue
                try:
                    files[f"log://{path}"] = self._engine.read_columns(f"log://{path}")
                except DamagedError as exc:
                    self._note(f"{path} cannot be read: {exc}")
            if len(files) > 1:
                group.several.append(files)
            group.single.update(files if len(files) == 1 else {})
        return group

    def _note(self, *gaps: str) -> None:
        self.gaps += [gap for gap in gaps if gap not in self.gaps]

    def _read_lines(self, day: str, objects: dict[str, int], limit: int | None) -> IO[bytes] | None:
        """Return the wanted entries of objects that are not merged yet as a Parquet file; or only
        the newest ones, so many. None if there are none."""
        with Spool(day) as spool:
            for path, lines in read_objects(self._store, objects):
                try:
                    for line in lines:
                        if self._pattern and not self._pattern.search(line):
                            continue
                        entry, written = parse_line(line)
                        if entry is None or find_keys(entry, line, day) >= self._place:
                            continue
                        if self.filter.matches(entry):
                            spool.add(entry, bytes(written))
                except DamagedError as exc:
                    self._note(f"{path} is damaged: {exc}")
            if not spool:
                return None
            from log.parquet import hold_rows  # takes as long to import as to find a page

            return hold_rows(spool.rows(limit))

    def _find_in(self, group: Group, limit: int | None, is_last: bool) -> Iterator[FoundEntry]:
        conditions, values = make_conditions(self.filter)
        sought = self.filter.exact.get("id") is not None
        count = (limit or FIRST_KEYS) + 1
        place = self._place
        while True:
            keys = self._engine.query(
                f"SELECT finished_at, id, size FROM {group.table} WHERE {conditions}"
                " AND finished_at <= ? AND (finished_at < ? OR id < ?)"
                f" ORDER BY finished_at DESC, id DESC LIMIT {count}",
                *values, place[0], *place,
            )  # fmt: skip
            is_end = len(keys) < count
            keys = list(dict.fromkeys((finished_at, id, size) for finished_at, id, size in keys))
            for batch in cut_batches(keys):
                for row in self._read_rows(group, batch):
                    key = (row["finished_at"], row["id"])
                    entry = read_row(row)
                    if key < place and self.filter.matches(entry):
                        last = is_last and is_end and key == keys[-1][:2] or sought
                        line = encode_json(entry).encode()
                        # before it is given away: what comes after it is asked for when it fails
                        self._place = place = key
                        yield FoundEntry(key[0][:10], 0, line, entry, is_last=last)
                    self._place = place = min(place, key)
            if is_end:
                return
            count = min(count * 4, MAX_KEYS)

    def _read_rows(self, group: Group, keys: list[tuple[str, str, int]]) -> list[Row]:
        """Return the rows with these keys, newest first."""
        ids = [id for _, id, _ in keys]
        found = self._engine.query(
            f"SELECT * FROM {group.table} WHERE finished_at BETWEEN ? AND ?"
            f" AND id IN ({', '.join('?' * len(ids))}) ORDER BY finished_at DESC, id DESC",
            keys[-1][0], keys[0][0], *ids,
        )  # fmt: skip
        return [dict(zip(TYPES, row, strict=True)) for row in found]

    def _make_exact_conditions(self, group: Group) -> tuple[str, list[str]]:
        """Return a condition of SQL, and its values, that only the wanted rows meet.

        Which values of a key have a part is for `Filter` to say: there are few of them.
        """
        parts = self.filter.parts
        conditions, values = make_conditions(replace(self.filter, parts={}))
        if self.filter.since or self.filter.until:
            conditions += " AND timed IS NOT FALSE"
        for key, part in parts.items():
            column = name_column(key)
            known = self.query(f"SELECT DISTINCT {column} FROM {group.table}")
            wanted = [value for (value,) in known if has_part({key: value}, key, part)]
            conditions += f" AND {column} IN ({', '.join('?' * len(wanted)) or 'NULL'})"
            values += wanted
        return conditions, values


def cut_batches(keys: list[tuple[str, str, int]]) -> Iterator[list[tuple[str, str, int]]]:
    """Yield the keys in batches whose entries fit into memory."""
    batch: list[tuple[str, str, int]] = []
    size = 0
    for key in keys:
        if batch and size + key[2] > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(key)
        size += key[2]
    if batch:
        yield batch
