"""Figures about speed and failures, in one pass over the log's entries.

Memory is bounded: of each group at most `SAMPLE` values are kept, drawn with equal chances
(algorithm R, https://en.wikipedia.org/wiki/Reservoir_sampling). Percentiles are exact up to there;
beyond it a p99 lies between the true p98.7 and p99.3.
"""

import heapq
import json
import random
import statistics
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, BinaryIO

from log.reader import LogReader

SAMPLE = 10_000
MAX_BUCKETS = 120
MAX_MODELS = 50
MAX_SLOWEST = 10
ROW_KEYS = """id started_at finished_at endpoint model status duration_ms ttft_ms
 response_tokens prompt_chars""".split()
PROMPT_LENGTH = 200
NOT_AN_ENTRY = (KeyError, TypeError, ValueError, OverflowError)
"""What raises an object that is no entry of ours."""

ONE_PIECE_MS = 1
PROGRESS_SECONDS = 0.25
HOUR = 3600
DAY_SECONDS = 24 * HOUR
WIDTHS = [1, 5, 15, 30, 60, 300, 900, 1800]
WIDTHS += [HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY_SECONDS, 7 * DAY_SECONDS]


class Percentiles:
    """The percentiles of a group of values."""

    def __init__(self) -> None:
        self._values = array("d")
        self._count = 0

    def add(self, value: object) -> None:
        """Add a value; what is no number is ignored."""
        if not isinstance(value, int | float):
            return
        self._count += 1
        if self._count <= SAMPLE:
            self._values.append(value)
        elif (place := int(random.random() * self._count)) < SAMPLE:
            self._values[place] = value

    def figures(self) -> dict[str, float] | None:
        """Return the percentiles to show, None if there are no values."""
        if not self._count:
            return None
        values = self._values if self._count > 1 else self._values * 2  # `quantiles` wants two
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        return {f"p{rank}": round(cuts[rank - 1], 3) for rank in (50, 95, 99)}


class Bucket:
    """The entries that were finished within one period."""

    def __init__(self) -> None:
        self._by_status: Counter[str] = Counter()
        self._ttft_ms = Percentiles()
        self._duration_ms = Percentiles()

    def add(self, entry: dict[str, Any]) -> None:
        """Add an entry; the duration counts for complete answers only."""
        self._by_status[str(entry.get("status"))] += 1
        self._ttft_ms.add(entry.get("ttft_ms"))
        if entry.get("status") == "ok":
            self._duration_ms.add(entry.get("duration_ms"))

    def figures(self) -> dict[str, Any]:
        """Return what is shown."""
        counts = {status: self._by_status[status] for status in ("ok", "error", "cancelled")}
        times = {"ttft_ms": self._ttft_ms, "duration_ms": self._duration_ms}
        return counts | {name: values.figures() for name, values in times.items()}


class Model:
    """The complete answers of one model."""

    def __init__(self) -> None:
        self.entries = 0
        self._tokens = 0
        self._tokens_per_second = Percentiles()

    def add(self, entry: dict[str, Any]) -> None:
        """Add an entry; its speed, as Ollama's own, leaves out the wait for the first token.

        An answer that arrived in one piece says nothing about speed.
        """
        self.entries += 1
        if tokens := entry.get("response_tokens"):
            self._tokens += tokens
            streaming_ms = entry["duration_ms"] - (entry.get("ttft_ms") or 0)
            if streaming_ms > ONE_PIECE_MS:
                self._tokens_per_second.add(tokens / streaming_ms * 1000)

    def figures(self) -> dict[str, Any]:
        """Return what is shown."""
        return {
            "entries": self.entries,
            "response_tokens": self._tokens,
            "tokens_per_second": self._tokens_per_second.figures(),
        }


class Figures:
    """What is shown of a period, `since` and `until` as the log has timestamps."""

    def __init__(self, since: str, until: str) -> None:
        self._since, self._until = since, until
        length = to_seconds(until) - to_seconds(since)
        weeks = (7 * DAY_SECONDS * n for n in (2, 4, 13, 52, 520, 5200))
        self._width = next(w for w in (*WIDTHS, *weeks) if length / w <= MAX_BUCKETS)
        self._first, self._last = self._number(since), self._number(until)
        self._entries = 0
        self._buckets: defaultdict[int, Bucket] = defaultdict(Bucket)
        self._models: defaultdict[str, Model] = defaultdict(Model)
        self._slowest: list[tuple[float, int, dict[str, Any]]] = []

    def add(self, entry: dict[str, Any]) -> None:
        """Add an entry; raise one of `NOT_AN_ENTRY` if it is none of ours."""
        bucket = min(max(self._number(entry["finished_at"]), self._first), self._last)
        duration_ms = entry["duration_ms"] + 0.0
        self._entries += 1
        self._buckets[bucket].add(entry)
        if entry.get("status") == "ok":
            self._models[str(entry.get("model"))].add(entry)
        if len(self._slowest) < MAX_SLOWEST or duration_ms > self._slowest[0][0]:
            heapq.heappush(self._slowest, (duration_ms, self._entries, select_row(entry)))
            if len(self._slowest) > MAX_SLOWEST:
                heapq.heappop(self._slowest)

    def _number(self, timestamp: str) -> int:
        return int(to_seconds(timestamp) // self._width)

    def figures(self) -> dict[str, Any]:
        """Return what is shown, from the first period with entries to the last."""
        numbers = range(min(self._buckets), max(self._buckets) + 1) if self._buckets else ()
        models = sorted(self._models.items(), key=lambda item: item[1].entries, reverse=True)
        return {
            "since": self._since,
            "until": self._until,
            "bucket_seconds": self._width,
            "entries": self._entries,
            "buckets": [
                {"start": to_timestamp(number * self._width), **self._buckets[number].figures()}
                for number in numbers
            ],
            "models": [{"model": name, **model.figures()} for name, model in models[:MAX_MODELS]],
            "slowest": [entry for *_, entry in sorted(self._slowest, reverse=True)],
        }


def select_row(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what a list shows of an entry."""
    shown = {key: entry.get(key) for key in ROW_KEYS}
    prompt = entry.get("prompt")
    return shown | {"prompt": None if prompt is None else str(prompt)[:PROMPT_LENGTH]}


def to_seconds(timestamp: str) -> float:
    """Return a timestamp of the log in seconds since 1970."""
    return datetime.fromisoformat(timestamp).timestamp()


def to_timestamp(seconds: float) -> str:
    """Return seconds since 1970 as a timestamp of the log."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def find_period(reader: LogReader) -> tuple[str, str]:
    """Return when the oldest and the newest entry of the filter's time were finished."""
    times = replace(reader.filter, q="", exact={})
    latest = (found.entry for found in LogReader(reader.directory, times).find())
    until = next(filter(None, map(finished_at, latest)), to_timestamp(time.time()))
    since = next(filter(None, map(finished_at, reader.oldest())), until)
    return min(max(since, times.since or since), until), until


def finished_at(entry: dict[str, Any]) -> str | None:
    """Return when the entry was finished, None if it is none of ours."""
    with suppress(*NOT_AN_ENTRY):
        to_seconds(entry["finished_at"])
        return str(entry["finished_at"])
    return None


def write_figures(
    reader: LogReader, out: BinaryIO, on_block: Callable[[int], None] = lambda bytes_read: None
) -> None:
    """Write how far the pass is, now and then, and the figures at the end, a JSON line each."""
    size = reader.size()
    due = time.monotonic() + PROGRESS_SECONDS

    def report(bytes_read: int) -> None:
        nonlocal due
        on_block(bytes_read)
        if (now := time.monotonic()) > due:
            due = now + PROGRESS_SECONDS
            out.write(b'{"progress":%.3f}\n' % min(bytes_read / max(size, 1), 1))
            out.flush()

    figures = Figures(*find_period(reader))
    for found in reader.find(report):
        with suppress(*NOT_AN_ENTRY):
            figures.add(found.entry)
        del found
    # the standard encoder escapes half a surrogate, which a model's name may hold
    out.write(json.dumps(figures.figures()).encode() + b"\n")
