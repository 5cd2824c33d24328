"""Entries to write, and which can be read. Little is imported: some processes only write."""

import json
from collections import Counter
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from log.entry import LogEntry, format_timestamp

NOW = format_timestamp(datetime.now(UTC))
ABSENT: dict[str, Any] = dict.fromkeys(field.name for field in fields(LogEntry))
GIVEN = {"id": "1", "started_at": NOW, "finished_at": NOW, "duration_ms": 1000.0, "status": "ok"}
ENTRY = LogEntry(**{**ABSENT, **GIVEN, "prompt": "Why?", "response": "Because."})


def numbered(number: int, **changes: Any) -> LogEntry:
    """Return an entry of its own."""
    return replace(ENTRY, id=str(number), **changes)


def readable(directory: Path) -> Counter[str]:
    """Return how often each id can be read; lines that do not parse have to be torn ones."""
    found: Counter[str] = Counter()
    for path in directory.glob("*.jsonl"):
        for line in path.read_bytes().split(b"\n"):
            try:
                found[json.loads(line)["id"]] += 1
            except ValueError:
                assert not line.endswith(b"}"), f"a whole line does not parse: {line!r}"
    return found
