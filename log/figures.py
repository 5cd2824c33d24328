"""Figures about speed and failures, in one pass over the log's entries.

Memory is bounded: of each group at most `SAMPLE` values are kept, drawn with equal chances
(algorithm R, https://en.wikipedia.org/wiki/Reservoir_sampling). Percentiles are exact up to there;
beyond it a p99 lies between the true p98.7 and p99.3. Of periods there are at most `MAX_PERIODS`:
they become longer as the time grows that the entries span.
"""

import heapq
import json
import math
import random
import statistics
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO

from log.entry import NO_ANSWERS
from log.progress import Progress
from log.reader import LogReader
from log.speed import SPEED_KEYS, tokens_per_second
from upstream.model_names import canonical_name

SAMPLE = 10_000
MAX_PERIODS = 120
MAX_MODELS = 50
COUNTED_MODELS = 200
"""How many models are counted apart; the newest ones."""
OTHER = "other"
NAME_LENGTH = 200
MAX_SLOWEST = 10
ROW_KEYS = """id started_at finished_at endpoint model status duration_ms ttft_ms
 response_tokens prompt_chars""".split()
PROMPT_LENGTH = 200
NOT_AN_ENTRY = (KeyError, TypeError, ValueError, OverflowError)
"""What raises an object that is no entry of ours."""

HOUR = 3600
DAY_SECONDS = 24 * HOUR
WIDTHS = [1, 5, 15, 30, 60, 300, 900, 1800]
WIDTHS += [HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY_SECONDS]
WIDTHS += [weeks * 7 * DAY_SECONDS for weeks in (1, 2, 4, 12, 48, 480, 4800)]
"""Seconds that a period may have: a multiple each of those before."""


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

    def merge(self, other: "Percentiles") -> None:
        """Add the values of another group."""
        count = self._count + other._count
        if len(self._values) + len(other._values) <= SAMPLE:
            self._values += other._values
        else:
            share = SAMPLE * self._count // count
            kept = random.sample(self._values, share)
            self._values = array("d", kept + random.sample(other._values, SAMPLE - share))
        self._count = count

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

    def merge(self, other: "Bucket") -> None:
        """Add the entries of another period."""
        self._by_status.update(other._by_status)
        self._ttft_ms.merge(other._ttft_ms)
        self._duration_ms.merge(other._duration_ms)

    def figures(self) -> dict[str, Any]:
        """Return what is shown."""
        counts = {status: self._by_status[status] for status in ("ok", "error", "cancelled")}
        times = {"ttft_ms": self._ttft_ms, "duration_ms": self._duration_ms}
        return counts | {name: values.figures() for name, values in times.items()}


class Model:
    """The complete answers of one model."""

    def __init__(self) -> None:
        self.name = OTHER
        """As the newest of them has it."""
        self.entries = 0
        self._tokens = 0
        self._tokens_per_second = Percentiles()

    def add(self, entry: dict[str, Any]) -> None:
        """Add an entry."""
        self.entries += 1
        self._tokens += entry.get("response_tokens") or 0
        self._tokens_per_second.add(tokens_per_second(*map(entry.get, SPEED_KEYS)))

    def figures(self) -> dict[str, Any]:
        """Return what is shown."""
        return {
            "model": self.name,
            "entries": self.entries,
            "response_tokens": self._tokens,
            "tokens_per_second": self._tokens_per_second.figures(),
        }


class Timeline:
    """The entries by when they were finished, in periods of equal length.

    A moment that is not on the day of its file, as a wrong clock gives it to a line that is added
    by hand, counts for the nearest period and makes the time no longer that is shown.
    """

    def __init__(self) -> None:
        self.since = math.inf
        self.until = -math.inf
        """The first and the last moment, in seconds since 1970."""
        self.width = WIDTHS[0]
        self._buckets: defaultdict[int, Bucket] = defaultdict(Bucket)
        self._strays: defaultdict[float, Bucket] = defaultdict(Bucket)

    def add(self, entry: dict[str, Any], day: str) -> None:
        """Add an entry of a day's file; raise one of `NOT_AN_ENTRY` if it is none of ours."""
        moment = to_seconds(entry["finished_at"])
        begin = to_seconds(f"{day}T00:00:00Z")
        nearest = min(max(moment, begin), begin + DAY_SECONDS - 1)
        if not begin <= moment < begin + DAY_SECONDS:
            self._strays[nearest].add(entry)
            return
        self._extend(moment)
        self._buckets[int(moment // self.width)].add(entry)

    def _extend(self, moment: float) -> None:
        """Let the time include the moment, in longer periods if there would be too many."""
        self.since, self.until = min(self.since, moment), max(self.until, moment)
        while self.until // self.width - self.since // self.width >= MAX_PERIODS:
            wider = next(width for width in WIDTHS if width > self.width)
            buckets: defaultdict[int, Bucket] = defaultdict(Bucket)
            for number, bucket in self._buckets.items():
                buckets[number * self.width // wider].merge(bucket)
            self.width, self._buckets = wider, buckets

    def end(self) -> None:
        """Give the entries of other days to the nearest periods."""
        if not self._buckets:
            for moment in self._strays:
                self._extend(moment)
        for moment, bucket in self._strays.items():
            nearest = min(max(moment, self.since), self.until)
            self._buckets[int(nearest // self.width)].merge(bucket)
        self._strays.clear()

    def figures(self) -> list[dict[str, Any]]:
        """Return what is shown, from the first period with entries to the last."""
        numbers = range(min(self._buckets), max(self._buckets) + 1) if self._buckets else ()
        return [
            {"start": to_timestamp(number * self.width), **self._buckets[number].figures()}
            for number in numbers
        ]


class Figures:
    """What is shown of all entries."""

    def __init__(self) -> None:
        self._timeline = Timeline()
        self._entries = 0
        self._models: defaultdict[str, Model] = defaultdict(Model)
        self._slowest: list[tuple[float, int, dict[str, Any]]] = []

    def add(self, entry: dict[str, Any], day: str) -> None:
        """Add an entry of a day's file; raise one of `NOT_AN_ENTRY` if it is none of ours."""
        if entry.get("finish_reason") in NO_ANSWERS:
            return
        duration_ms = entry["duration_ms"] + 0.0
        self._timeline.add(entry, day)
        self._entries += 1
        if entry.get("status") == "ok":
            self._find_model(entry.get("model")).add(entry)
        if len(self._slowest) < MAX_SLOWEST or duration_ms > self._slowest[0][0]:
            heapq.heappush(self._slowest, (duration_ms, self._entries, select_row(entry)))
            if len(self._slowest) > MAX_SLOWEST:
                heapq.heappop(self._slowest)

    def _find_model(self, model: object) -> Model:
        """Return the model of this name, or that of all others where there are too many."""
        name = str(model)[:NAME_LENGTH]
        key = canonical_name(name)
        if key not in self._models:
            if len(self._models) >= COUNTED_MODELS:
                return self._models[OTHER]
            self._models[key].name = name
        return self._models[key]

    def figures(self) -> dict[str, Any]:
        """Return what is shown."""
        timeline = self._timeline
        timeline.end()
        now = time.time()
        has_entries = timeline.since <= timeline.until
        since, until = (timeline.since, timeline.until) if has_entries else (now, now)
        models = sorted(self._models.values(), key=lambda model: model.entries, reverse=True)
        return {
            "since": to_timestamp(since, "microseconds"),
            "until": to_timestamp(until, "microseconds"),
            "bucket_seconds": timeline.width,
            "entries": self._entries,
            "buckets": timeline.figures(),
            "models": [model.figures() for model in models[:MAX_MODELS]],
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


def to_timestamp(seconds: float, precision: str = "seconds") -> str:
    """Return seconds since 1970 as a timestamp."""
    return datetime.fromtimestamp(seconds, UTC).isoformat("T", precision).replace("+00:00", "Z")


def write_figures(
    reader: LogReader, out: BinaryIO, on_block: Callable[[int], None] = lambda bytes_read: None
) -> None:
    """Write how far the pass is, now and then, and the figures at the end, a JSON line each."""
    progress = Progress(reader.size(), out)

    def report(bytes_read: int) -> None:
        on_block(bytes_read)
        progress.report(bytes_read)

    figures = Figures()
    for found in reader.find(report):
        with suppress(*NOT_AN_ENTRY):
            figures.add(found.entry, found.day)
        del found
    # the standard encoder escapes half a surrogate, which a model's name may hold
    out.write(json.dumps(figures.figures()).encode() + b"\n")
