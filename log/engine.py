"""DuckDB over the Parquet files of a store: what a query may cost, and what a file must have."""

from typing import IO, Any

import duckdb

from log.columns import TYPES
from log.store import DamagedError, LogStore, StoreFileSystem

MEMORY = "512MB"
THREADS = 2
SQL_TYPES = {"string": "VARCHAR", "double": "DOUBLE", "int64": "BIGINT", "bool": "BOOLEAN"}
COLUMNS = {name: SQL_TYPES[type] for name, type in TYPES.items()}


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
        self.query(f"SELECT count(COLUMNS(*)) FROM read_parquet({quote(file)})")
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
            raise self._files.error or DamagedError(describe(exc)) from exc

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


def describe(exc: Exception) -> str:
    """Return what the engine says, in a line."""
    return str(exc).partition("\n")[0]


def quote(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"
