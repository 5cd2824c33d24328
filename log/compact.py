"""The command `python -m log.compact SOURCE`, which makes Parquet of a log (`log.merge`)."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from log.daily_file import list_days


def main() -> None:
    """Compact what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m log.compact", description="make Parquet of a log"
    )
    parser.add_argument(
        "source", help="s3://bucket/prefix, a folder of the same layout, or a log folder"
    )
    source = parser.parse_args().source
    try:
        from log.merge import CompactError, Compactor, compact_folder
        from log.store import LogStore, StoreError
    except ModuleNotFoundError as exc:
        sys.exit(f"{exc}; install what it needs: `pip install -r requirements-cluster.txt`")
    today = datetime.now(UTC).date().isoformat()
    try:
        if "://" not in source and list_days(Path(source)):
            return compact_folder(Path(source), today)
        compactor = Compactor(LogStore(source), today)
        compactor.run()
    except (CompactError, StoreError, OSError) as exc:
        sys.exit(f"{source} cannot be compacted: {exc}")
    if compactor.problems:
        sys.exit("\n".join(compactor.problems))


if __name__ == "__main__":
    main()
