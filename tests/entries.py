"""Entries to write. Little is imported for them: the tests have processes that only write."""

from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

from log_entry import LogEntry, timestamp

NOW = timestamp(datetime.now(UTC))
ABSENT: dict[str, Any] = dict.fromkeys(field.name for field in fields(LogEntry))
GIVEN = {"id": "1", "started_at": NOW, "finished_at": NOW, "duration_ms": 1000.0, "status": "ok"}
ENTRY = LogEntry(**{**ABSENT, **GIVEN, "prompt": "Why?", "response": "Because."})


def numbered(number: int, **changes: Any) -> LogEntry:
    """Return an entry of its own."""
    return replace(ENTRY, id=str(number), **changes)
