"""An entry as a row of a Parquet file, and back.

Every key is a column. What has no one type (`options`, `request`, …) is JSON in a text column. An
entry that the columns do not hold whole, as one with a key that we do not know, stands as it was in
the column `line` as well.
"""

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from log.entry import LogEntry

MIXED = ("options", "format", "think", "tool_calls", "request", "tools", "images")
"""Keys whose values are of several types, or lists and objects."""

NUMBERS = ("duration_ms", "ttft_ms", "load_ms", "prompt_ms", "response_ms")
COUNTS = ("prompt_tokens", "response_tokens", "prompt_chars", "response_chars")
FLAGS = ("streamed",)
KEYS = tuple(field.name for field in fields(LogEntry))
TEXTS = tuple(key for key in KEYS if key not in {*MIXED, *NUMBERS, *COUNTS, *FLAGS})
EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
MAX_EXACT = 2**53
"""Up to here every integer is a floating-point number too."""

COUNTED = ("finished_at", "model", "status", "finish_reason", "user_agent")
"""Texts that figures need. Their columns stand side by side with the numbers, so that one request
to a store reads them all."""

TYPES: dict[str, str] = {
    "moment": "int64",
    **dict.fromkeys(COUNTS, "int64"),
    **dict.fromkeys(NUMBERS, "double"),
    **dict.fromkeys((*FLAGS, "timed"), "bool"),
    **dict.fromkeys(COUNTED, "string"),
    "size": "int64",
    **dict.fromkeys((key for key in TEXTS if key not in COUNTED), "string"),
    **dict.fromkeys(MIXED, "string"),
    "line": "string",
}
"""The columns in their order, with Arrow's types: the keys of an entry; `moment`, its `finished_at`
in microseconds since 1970; `timed`, whether that is its own; `size`, the bytes of its line."""

REPEATED = ["endpoint", "llm_type", "model", "status", "finish_reason", "user_agent"]
"""Columns with few values, which a file holds once."""

SEARCHED = ["id", "finished_at", "endpoint", "model", "status", "client", "user_agent"]
SEARCHED += ["conversation", "moment", *NUMBERS, *COUNTS]
"""Columns of which a file says the least and the greatest value, so that a search can skip."""

Row = dict[str, Any]


def make_row(entry: dict[str, Any], line: bytes, finished_at: str, id: str) -> Row:
    """Return the row of an entry, which stands in this line, under these two keys."""
    row = {key: entry.get(key) for key in KEYS}
    is_whole = entry.keys() <= row.keys()
    for key in MIXED:
        if row[key] is not None:
            row[key] = encode_json(row[key])
    for key in TEXTS:
        if row[key] is not None and not is_text(row[key]):
            row[key], is_whole = None, False
    for keys, types in ((NUMBERS, (int, float)), (COUNTS, (int,)), (FLAGS, (bool,))):
        for key in keys:
            value = row[key]
            if value is not None and (type(value) not in types or abs(value) > MAX_EXACT):
                row[key], is_whole = None, False
    is_whole = is_whole and (row["finished_at"], row["id"]) == (finished_at, id)
    kept = None if is_whole else encode_json(entry)
    return row | {
        "finished_at": finished_at,
        "id": id,
        "moment": to_moment(finished_at),
        "timed": entry.get("finished_at") == finished_at,
        "size": len(line),
        "line": kept,
    }


def to_moment(timestamp: str) -> int | None:
    """Return a timestamp of the log in microseconds since 1970; None if it is none."""
    try:
        time = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    return (time - EPOCH) // MICROSECOND if time.tzinfo else None


def read_row(row: Row) -> dict[str, Any]:
    """Return the entry of a row, which may lack columns."""
    if row.get("line"):
        entry: dict[str, Any] = decode_json(row["line"])
        return entry
    return {
        key: decode_json(row[key]) if key in MIXED and row.get(key) is not None else row.get(key)
        for key in KEYS
    }


def is_text(value: object) -> bool:
    """Return whether a value is a text that UTF-8 can carry: JSON knows half surrogate pairs."""
    if not isinstance(value, str):
        return False
    try:
        return value.isascii() or value.encode() is not None
    except UnicodeEncodeError:
        return False


def encode_json(value: object) -> str:
    """Return a value as JSON."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # an integer of more than 64 bits, half a surrogate pair
        return json.dumps(value)


def decode_json(text: str) -> Any:
    """Return the value that JSON stands for."""
    try:
        return orjson.loads(text)
    except ValueError:  # as above
        return json.loads(text)
