"""Where the entries of many pods lie: a bucket, or a folder of the same layout.

    date=2026-11-24/pod=NAME/….jsonl.gz    as a shipper writes them, in any number
    date=2026-11-24/v00000001-….parquet    what `log.compact` made of them

The day is that of `finished_at`. A list of objects is no snapshot: one that is read in parts may
have been written and removed from meanwhile. But names are listed in their order, and a file of
Parquet has a greater name than all that it was made of. So what is missing in a list is in a file
that is listed, or it is found to be gone when it is read; then the list is read once more.
"""

import os
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore.store
from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from log.reader import MAX_LINE, ReadError

DAY = re.compile(r"date=(\d{4}-\d\d-\d\d)")
PARQUET = re.compile(r"date=[^/]+/v(\d+)-[^/]+\.parquet")
LINES = re.compile(r"date=[^/]+/(?:.*/)?[^/]+\.(?:jsonl|ndjson)(?:\.gz)?")
HIDDEN = re.compile(r"(.*/)?[._].*")
"""What writes to a store keeps for itself, as `_SUCCESS`."""

REFUSAL = re.compile(r"status code: 40[13]\b|<Code>(ExpiredToken|InvalidToken)</Code>")
MAX_RETRIES = 3
RETRY_TIME = timedelta(seconds=10)
REQUEST_TIME = timedelta(seconds=30)
MIN_PIECE = 1 << 18
PIECE = 8 << 20
MAX_REMOVED = 1000
"""How many objects S3 removes at one request."""

SMALL_OBJECT = 1 << 20
PARALLEL = 16
"""How many small objects are asked for side by side."""


class StoreError(ReadError):
    """The store cannot be read."""


class StoreRefusesError(StoreError):
    """The store refuses the credentials."""

    status = os.EX_NOPERM


class DamagedError(Exception):
    """An object is not what its name says."""


@dataclass
class Objects:
    """The objects of a day."""

    parquet: dict[str, int] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    """Their paths and sizes in bytes."""
    foreign: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many bytes they have."""
        return sum(self.parquet.values()) + sum(self.lines.values())


class LogStore:
    """A bucket or a folder with the log of many pods."""

    def __init__(self, url: str) -> None:
        """Open `s3://bucket/prefix`, or another URL that obstore knows, or a folder.

        Credentials come from the environment, by the store's own names (`AWS_ACCESS_KEY_ID`, …).

        Raises:
            StoreError: it cannot be.
        """
        self.url = url
        self._sizes: dict[str, int] = {}
        """Of the objects that were listed; none is written twice."""
        self._store: Any
        self._is_folder = "://" not in url
        with self.errors():
            if self._is_folder:
                self._store = obstore.store.LocalStore(Path(url).expanduser().absolute())
                return
            options: Any = {"timeout": REQUEST_TIME}
            if is_plain_http():
                options["allow_http"] = True
            self._store = obstore.store.from_url(
                url,
                client_options=options,
                retry_config={"max_retries": MAX_RETRIES, "retry_timeout": RETRY_TIME},
            )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise StoreError for what the store answers, but FileNotFoundError for one object."""
        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as exc:
            raise StoreRefusesError(first_line(exc)) from exc
        except FileNotFoundError:
            raise
        except (BaseError, OSError, ValueError) as exc:
            if REFUSAL.search(first_line(exc)):  # of a list, which has no error class of its own
                raise StoreRefusesError(first_line(exc)) from exc
            if "<Code>NoSuchBucket</Code>" in str(exc):
                raise StoreError(f"there is no bucket {self.url}") from exc
            raise StoreError(first_line(exc)) from exc

    def list_days(self) -> list[str]:
        """Return the days that have objects, the newest one first."""
        try:
            with self.errors():
                prefixes = self._store.list_with_delimiter()["common_prefixes"]
        except FileNotFoundError as exc:
            raise StoreError(f"there is no {self.url}") from exc
        return sorted(
            (match[1] for each in prefixes if (match := DAY.fullmatch(each))), reverse=True
        )

    def list_objects(self, day: str) -> Objects:
        """Return the objects of a day."""
        objects = Objects()
        sizes = self._list(day)
        while self._is_folder and sizes != (again := self._list(day)):
            sizes = again  # a folder's names come in no order, and may change meanwhile
        self._sizes |= sizes
        for path, size in sorted(sizes.items()):
            if PARQUET.fullmatch(path):
                objects.parquet[path] = size
            elif LINES.fullmatch(path) and not HIDDEN.fullmatch(path):
                objects.lines[path] = size
            elif not HIDDEN.fullmatch(path):
                objects.foreign.append(path)
        return objects

    def _list(self, day: str) -> dict[str, int]:
        """Return the paths and sizes of a day's objects; raise DamagedError if one has no path."""
        try:
            with self.errors():
                listed = [each for some in self._store.list(f"date={day}/") for each in some]
        except StoreError as exc:
            if isinstance(exc.__cause__, InvalidPathError) or "path segment" in str(exc):
                raise DamagedError(f"its objects cannot be listed: {exc}") from exc
            raise
        return {str(each["path"]): int(each["size"]) for each in listed}

    def size(self, path: str) -> int:
        """Return how many bytes an object has; raise FileNotFoundError if it is gone."""
        if path not in self._sizes:
            with self.errors():
                self._sizes[path] = int(self._store.head(path)["size"])
        return self._sizes[path]

    def read(self, path: str, start: int, length: int) -> bytes:
        """Return some bytes of an object; raise FileNotFoundError if it is gone."""
        with self.errors():
            return bytes(self._store.get_range(path, start=start, length=length))

    def _read_pieces(self, path: str) -> Iterator[bytes]:
        """Yield the bytes of an object, each piece by a request of its own: a time limit is one for
        a whole request."""
        size = self.size(path)
        for start in range(0, size, PIECE):
            yield self.read(path, start, min(PIECE, size - start))

    def fetch(self, path: str) -> bytes:
        """Return all bytes of an object; raise FileNotFoundError if it is gone."""
        with self.errors():
            return bytes(self._store.get(path).bytes())

    def read_lines(self, path: str, data: bytes | None = None) -> Iterator[bytes]:
        """Yield the lines of an object, whose bytes may have been fetched.

        Raises:
            DamagedError: it is no gzip, or breaks off; the lines before were yielded.
            FileNotFoundError: it is gone.
        """
        pieces = self._read_pieces(path) if data is None else iter([data])
        yield from split_lines(decompress(pieces) if path.endswith(".gz") else pieces)

    def download(self, path: str, file: Path) -> None:
        """Write all bytes of an object to a file; raise FileNotFoundError if it is gone."""
        with file.open("wb") as out:
            out.writelines(self._read_pieces(path))

    def put(self, path: str, file: Path) -> None:
        """Write an object, whole or not at all."""
        with self.errors():
            self._store.put(path, file)

    def remove(self, paths: list[str]) -> None:
        """Remove objects; that one is gone already is no error."""
        # a reader reads them in their order: it meets few that are gone if the last ones go first
        paths = sorted(paths, reverse=True)
        # in a folder, one that is gone keeps those behind it
        at_once = 1 if self._is_folder else MAX_REMOVED
        for start in range(0, len(paths), at_once):
            with suppress(FileNotFoundError), self.errors():
                self._store.delete(paths[start : start + at_once])


def read_objects(store: LogStore, objects: dict[str, int]) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield the path and the lines of each object; small ones are asked for side by side."""
    paths = list(objects)
    with ThreadPoolExecutor(PARALLEL) as pool:
        for start in range(0, len(paths), PARALLEL):
            some = paths[start : start + PARALLEL]
            small = [path for path in some if objects[path] <= SMALL_OBJECT]
            held = dict(zip(small, pool.map(store.fetch, small), strict=True))
            for path in some:
                yield path, store.read_lines(path, held.pop(path, None))


def is_plain_http() -> bool:
    """Return whether the environment names a store without TLS."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return any(os.environ.get(name, "").startswith("http://") for name in names)


def first_line(exc: Exception) -> str:
    """Return what an error says without what is for the library's own developers."""
    return str(exc).partition("\n")[0]


def split_lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the lines in some pieces; at the end raise DamagedError if one was too long."""
    begin = bytearray()
    length = too_long = 0
    for piece in pieces:
        first, *lines = piece.split(b"\n")
        length += len(first)
        if length <= MAX_LINE:
            begin += first
        if lines:
            too_long += length > MAX_LINE
            if length <= MAX_LINE:
                yield bytes(begin)
            yield from lines[:-1]
            begin, length = bytearray(lines[-1]), len(lines[-1])
    if length <= MAX_LINE and begin:
        yield bytes(begin)
    if too_long or length > MAX_LINE:
        raise DamagedError(f"it has a line of more than {MAX_LINE} bytes, which is left out")


def decompress(pieces: Iterator[Any]) -> Iterator[bytes]:
    """Yield what gzip's pieces contain, of one member or several, a bounded piece at a time."""
    unpacker = zlib.decompressobj(wbits=31)
    for piece in pieces:
        data = bytes(piece)
        while data:
            if unpacker.eof:
                unpacker = zlib.decompressobj(wbits=31)
            try:
                yield unpacker.decompress(data, MIN_PIECE)
            except zlib.error as exc:
                raise DamagedError(f"it is no gzip: {exc}") from exc
            data = unpacker.unconsumed_tail or unpacker.unused_data
    if not unpacker.eof:
        raise DamagedError("it breaks off")
