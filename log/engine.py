"""DuckDB over the Parquet files of a store: what a query may cost, and what a file must have."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import IO, Any

import duckdb
from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

from log.columns import TYPES
from log.store import DamagedError, LogStore, StoreError, first_line

MEMORY = "768MB"
THREADS = 2
SQL_TYPES = {"string": "VARCHAR", "double": "DOUBLE", "int64": "BIGINT", "bool": "BOOLEAN"}
COLUMNS = {name: SQL_TYPES[type] for name, type in TYPES.items()}


class RandomAccessFile:
    """What can be read at any offset, as a file."""

    def __init__(self, size: int, read_at: Callable[[int, int], bytes]) -> None:
        """`read_at` returns the bytes at an offset, so many of them."""
        self._read_at = read_at
        self._position = 0
        self.size = size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to an offset; return it."""
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}
        self._position = begin[whence] + offset
        return self._position

    def tell(self) -> int:
        """Return the offset."""
        return self._position

    def read(self, length: int = -1) -> bytes:
        """Return bytes from the offset on."""
        left = self.size - self._position
        length = left if length < 0 else min(length, left)
        data = self._read_at(self._position, length) if length > 0 else b""
        self._position += len(data)
        return data

    def close(self) -> None:
        """Do nothing: what is read at an offset is not held open."""


class StoreFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The store as DuckDB reads it, under the names `log://…`.

    DuckDB's own client of S3 is an extension, which has to be of DuckDB's very version
    (https://duckdb.org/docs/stable/core_extensions/httpfs/overview), and has no way to list and
    remove; so one client does both, with one way to find credentials.
    """

    protocol = "log"
    cachable = False

    def __init__(self, store: LogStore) -> None:
        super().__init__()
        self._store = store
        self.held: dict[str, IO[bytes]] = {}
        """Files of our own, by the names under which the engine finds them beside the objects."""
        self.error: Exception | None = None
        """What went wrong last: the engine passes on its text alone."""

    def open(self, path: str, mode: str = "rb", **_: Any) -> RandomAccessFile:
        """Open an object to read it."""
        name = self._strip_protocol(path)
        return RandomAccessFile(self.size(path), partial(self._read, name))

    def _read(self, name: str, start: int, length: int) -> bytes:
        if file := self.held.get(name):
            return os.pread(file.fileno(), length, start)
        with self._keep_error():
            return self._store.read(name, start, length)

    def size(self, path: str) -> int:
        """Return how many bytes an object has."""
        name = self._strip_protocol(path)
        if file := self.held.get(name):
            return os.fstat(file.fileno()).st_size
        with self._keep_error():
            return self._store.size(name)

    @contextmanager
    def _keep_error(self) -> Iterator[None]:
        try:
            yield
        except (StoreError, FileNotFoundError) as exc:
            self.error = exc
            raise

    def modified(self, path: str) -> datetime:
        """Return when it was modified: never, as no object is written twice."""
        return datetime.fromtimestamp(0, UTC)

    def glob(self, path: str, **_: Any) -> list[str]:
        """Return the path itself: names are known, and may have any characters."""
        return [path]


class Engine:
    """A connection that reads the files of a store and nothing else."""

    def __init__(self, store: LogStore) -> None:
        self._held = 0
        self._files = StoreFileSystem(store)
        self._connection = duckdb.connect(
            config={
                "memory_limit": MEMORY,
                "threads": THREADS,
                "temp_directory": "",  # what a killed process had written there would stay
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
        )
        self._connection.execute("SET parquet_metadata_cache = true; SET TimeZone = 'UTC'")
        self._connection.register_filesystem(self._files)

    def close(self) -> None:
        """Close the connection, and the files of our own."""
        self._connection.close()
        for file in self._files.held.values():
            file.close()

    def hold(self, file: IO[bytes]) -> str:
        """Let a file of our own be read beside the objects; return its name, which is a new one:
        what the engine knows of a file it knows by its name."""
        self._held += 1
        self._files.held[f"held-{self._held}"] = file
        return f"log://held-{self._held}"

    def read_whole(self, file: str) -> None:
        """Read all columns of a file; raise DamagedError if it cannot be."""
        self.query(f"SELECT max(COLUMNS(*)::VARCHAR) FROM read_parquet({quote(file)})")

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query.

        Raises:
            FileNotFoundError: an object is gone.
            DamagedError: a file is damaged, or the query takes more memory than it may.
            StoreError: the store does not answer.
        """
        self._files.error = None
        try:
            return self._connection.execute(sql, values).fetchall()
        except duckdb.Error as exc:
            raise self._files.error or DamagedError(first_line(exc)) from exc

    def read_columns(self, file: str) -> set[str]:
        """Return which of our columns a file has.

        Raises:
            DamagedError: it is no Parquet file, or not one of ours.
            FileNotFoundError, StoreError: as `query`.
        """
        try:
            found = self.query(f"DESCRIBE SELECT * FROM read_parquet({quote(file)})")
        except DamagedError as exc:
            raise DamagedError(f"it is no Parquet file: {exc}") from exc
        types = {str(name): str(type) for name, type, *_ in found}
        known = types.keys() & COLUMNS.keys()
        if not {"id", "finished_at"} <= known or any(types[x] != COLUMNS[x] for x in known):
            raise DamagedError("its columns are not those of a log")
        return known


def make_table(files: dict[str, set[str]]) -> str:
    """Return the table, as SQL, of files with these columns; one that no file has is null."""
    present = set().union(*files.values())
    columns = ", ".join(
        (
            (f'coalesce("{name}", 0) AS "{name}"' if name == "size" else f'"{name}"')
            if name in present
            else f'NULL::{type} AS "{name}"'
        )
        for name, type in COLUMNS.items()
    )
    names = ", ".join(map(quote, files))
    return (
        f"(SELECT {columns} FROM read_parquet([{names}], union_by_name=true)"
        " WHERE id IS NOT NULL AND finished_at IS NOT NULL)"
    )


def quote(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"
