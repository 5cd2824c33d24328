"""Rows in Parquet files: written in groups that a reader can skip, read back, and counted."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from log.columns import REPEATED, SEARCHED, TYPES, Row
from log.store import DamagedError

SCHEMA = pa.schema([(name, pa.type_for_alias(type)) for name, type in TYPES.items()])
COMPRESSION_LEVEL = 6
BATCH_ROWS = 4096
READ_ROWS, BUFFER_BYTES = 512, 1 << 20
"""How much of each file is held when several are merged."""

MAX_ROWS = 122_880
MAX_BYTES = 160 << 20
"""How much stands in one group of rows: the fewer groups, the fewer requests to a store."""

LARGE_LINE = 1 << 20
MAX_LARGE_BYTES = 16 << 20
"""How much stands in a group with a large line: a reader holds what is next to each other."""


def write_parquet(file: Path, rows: Iterable[Row]) -> tuple[int, bytes]:
    """Write rows, which are in the order of their keys; return how many, and their digest."""
    count, digest = 0, hashlib.sha256()
    sorting = pq.SortingColumn.from_ordering(SCHEMA, ["finished_at", "id"])
    with pq.ParquetWriter(
        file,
        SCHEMA,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        use_dictionary=REPEATED,
        write_statistics=SEARCHED,
        sorting_columns=sorting,
    ) as writer:
        for group in group_rows(rows):
            writer.write_table(group, row_group_size=group.num_rows)
            count += group.num_rows
            update_digest(digest, group["id"].to_pylist())
    return count, digest.digest()


def read_back(file: Path) -> tuple[int, bytes]:
    """Return how many rows a file has, and the digest of their ids."""
    count, digest = 0, hashlib.sha256()
    with pq.ParquetFile(file) as parquet:
        for group in parquet.iter_batches(columns=["id"]):
            count += group.num_rows
            update_digest(digest, group["id"].to_pylist())
    return count, digest.digest()


def update_digest(digest: "hashlib._Hash", ids: list[str]) -> None:
    """Add ids, each of which ends at a line end that no id has."""
    digest.update("".join(f"{id}\n" for id in ids).encode())


def check_file(file: Path) -> None:
    """Raise DamagedError if a file is not one that `write_parquet` wrote, now or in the past."""
    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
    except (pa.ArrowException, OSError) as exc:
        raise DamagedError(f"it is no Parquet file: {exc}") from exc
    if any(each.name not in TYPES or SCHEMA.field(each.name).type != each.type for each in schema):
        raise DamagedError("its columns are not those of a log")


def read_rows(file: Path) -> Iterator[Row]:
    """Yield the rows of a file, which may lack columns."""
    try:
        with pq.ParquetFile(file, buffer_size=BUFFER_BYTES) as parquet:
            for batch in parquet.iter_batches(batch_size=READ_ROWS):
                for row in batch.to_pylist():
                    if row.get("id") is not None and row.get("finished_at") is not None:
                        yield dict.fromkeys(TYPES) | {"size": 0} | row
    except (pa.ArrowException, OSError) as exc:
        raise DamagedError(f"{file.name} cannot be read to its end: {exc}") from exc


def hold_rows(rows: Iterable[Row]) -> IO[bytes]:
    """Return a Parquet file with these rows that has no name, and is gone when it is closed."""
    file = TemporaryFile()
    with pq.ParquetWriter(file, SCHEMA, compression="lz4") as writer:
        for group in group_rows(rows):
            writer.write_table(group, row_group_size=group.num_rows)
    file.flush()
    return file


def group_rows(rows: Iterable[Row]) -> Iterator[pa.Table]:
    """Yield rows in groups that are neither long nor large."""
    batches: list[pa.RecordBatch] = []
    batch: list[Row] = []
    count = size = 0
    limit = MAX_BYTES
    for row in rows:
        if row["size"] > LARGE_LINE:
            limit = MAX_LARGE_BYTES
        if count == MAX_ROWS or (count and size + row["size"] > limit):
            yield pa.Table.from_batches([*batches, to_batch(batch)])
            batches, batch, count, size, limit = [], [], 0, 0, MAX_BYTES
        if len(batch) == BATCH_ROWS:
            batches.append(to_batch(batch))
            batch = []
        batch.append(row)
        count += 1
        size += row["size"]
    if count:
        yield pa.Table.from_batches([*batches, to_batch(batch)])


def to_batch(rows: list[Row]) -> pa.RecordBatch:
    """Return rows as columns, which take less memory."""
    return pa.RecordBatch.from_pylist(rows, SCHEMA)
