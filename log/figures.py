"""Figures about speed and failures, in one pass over the log's entries.

Memory is bounded: of each group at most `SAMPLE` values are kept, drawn with equal chances
(algorithm R, https://en.wikipedia.org/wiki/Reservoir_sampling). Percentiles are exact up to there;
beyond it a p99 lies between the true p98.7 and p99.3. Of periods there are at most `MAX_PERIODS`:
they become longer as the time grows that the entries span.
"""

import heapq
import math
import random
import re
import statistics
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from typing import Any

from log.entry import NO_ANSWERS
from log.periods import (
    DAY_SECONDS,
    WIDTHS,
    choose_width,
    list_periods,
    to_clock,
    to_seconds,
    to_timestamp,
)
from log.reader import FoundEntry
from log.speed import SPEED_KEYS, is_number, tokens_per_second
from upstream.model_names import canonical_name

SAMPLE = 10_000
MAX_MODELS = 50
COUNTED_MODELS = 200
"""How many models are counted apart; the newest ones."""
MAX_DAYS = 400
MAX_VALUE = 1e15
MAX_COUNT = 2**32 - 1
"""How many tokens an entry can have: more are not true."""

OTHER, UNKNOWN = "other", "unknown"
"""What is counted as a model where there are too many, or none is named."""
PROGRAM = re.compile(r"[^\s/]+(/[A-Za-z][^\s/]*)?")
NAME_LENGTH = 200
MAX_SLOWEST = 10
ROW_KEYS = """id started_at finished_at endpoint model status duration_ms ttft_ms
 response_tokens prompt_chars""".split()
PROMPT_LENGTH = 200
NOT_AN_ENTRY = (KeyError, TypeError, ValueError, OverflowError)
"""What raises an object that is no entry of ours."""


class Percentiles:
    """The percentiles of a group of values."""

    def __init__(self) -> None:
        self._values = array("d")
        self._count = 0

    def add(self, value: object) -> None:
        """Add a value; what is no number, or none that can be true, is ignored."""
        if not isinstance(value, int | float) or not abs(value) < MAX_VALUE:
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
        self._tokens = Tokens()

    def add(self, entry: dict[str, Any]) -> None:
        """Add an entry; the duration counts for complete answers only."""
        self._by_status[str(entry.get("status"))] += 1
        self._ttft_ms.add(entry.get("ttft_ms"))
        if entry.get("status") == "ok":
            self._duration_ms.add(entry.get("duration_ms"))
            self._tokens.add(entry)

    def merge(self, other: "Bucket") -> None:
        """Add the entries of another period."""
        self._by_status.update(other._by_status)
        self._ttft_ms.merge(other._ttft_ms)
        self._duration_ms.merge(other._duration_ms)
        self._tokens.merge(other._tokens)

    def figures(self) -> dict[str, Any]:
        """Return what is shown."""
        counts = {status: self._by_status[status] for status in ("ok", "error", "cancelled")}
        times = {"ttft_ms": self._ttft_ms, "duration_ms": self._duration_ms}
        tokens = self._tokens.figures()
        del tokens["entries"]
        return counts | {name: values.figures() for name, values in times.items()} | tokens


class Tokens:
    """How many complete answers there are, and their tokens as Ollama counts them."""

    def __init__(self) -> None:
        self.entries = 0
        self._prompt_tokens = 0
        self._response_tokens = 0

    def add(self, entry: dict[str, Any]) -> None:
        """Add an entry."""
        self.entries += 1
        self._prompt_tokens += to_count(entry.get("prompt_tokens"))
        self._response_tokens += to_count(entry.get("response_tokens"))

    def merge(self, other: "Tokens") -> None:
        """Add those of another group."""
        self.entries += other.entries
        self._prompt_tokens += other._prompt_tokens
        self._response_tokens += other._response_tokens

    def figures(self) -> dict[str, Any]:
        """Return what is shown."""
        return {
            "entries": self.entries,
            "prompt_tokens": self._prompt_tokens,
            "response_tokens": self._response_tokens,
        }


class Model:
    """The complete answers of one model."""

    def __init__(self) -> None:
        self.name = OTHER
        """As the newest of them has it."""
        self.tokens = Tokens()
        self._tokens_per_second = Percentiles()
        self._load_ms = Percentiles()

    def add(self, entry: dict[str, Any]) -> None:
        """Add an entry."""
        self.tokens.add(entry)
        self._tokens_per_second.add(tokens_per_second(*map(entry.get, SPEED_KEYS)))
        self._load_ms.add(entry.get("load_ms"))

    def figures(self) -> dict[str, Any]:
        """Return what is shown."""
        times = {"tokens_per_second": self._tokens_per_second, "load_ms": self._load_ms}
        shown = {name: values.figures() for name, values in times.items()}
        return {"model": self.name, **self.tokens.figures(), **shown}


class Timeline:
    """The entries by when they were finished, in periods of equal length on the clock of a zone.

    So a day is a day, also when the clocks change. A moment that is not on the day of its file, as
    a wrong clock gives it to a line that is added by hand, counts for the nearest period and makes
    the time no longer that is shown.
    """

    def __init__(self, zone: tzinfo) -> None:
        self.since = math.inf
        self.until = -math.inf
        """The first and the last moment, in seconds since 1970."""
        self._zone = zone
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
        self._buckets[int(to_clock(moment, self._zone) // self.width)].add(entry)

    def _extend(self, moment: float) -> None:
        """Let the time include the moment, in longer periods if there would be too many."""
        if self.since <= moment <= self.until:
            return
        self.since, self.until = min(self.since, moment), max(self.until, moment)
        wider = choose_width(*(to_clock(end, self._zone) for end in (self.since, self.until)))
        if wider > self.width:
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
            self._buckets[int(to_clock(nearest, self._zone) // self.width)].merge(bucket)
        self._strays.clear()

    def figures(self) -> list[dict[str, Any]]:
        """Return what is shown, from the first period with entries to the last."""
        shown = list_periods(self._buckets, self.width, self._zone)
        return [{"start": start, **self._buckets[number].figures()} for number, start in shown]


class Figures:
    """What is shown of all entries, newest first."""

    def __init__(self, zone: tzinfo = UTC) -> None:
        """Days are those of the zone."""
        self._zone = zone
        self._timeline = Timeline(zone)
        self._entries = 0
        self._models: defaultdict[str, Model] = defaultdict(Model)
        self._days: dict[str, defaultdict[str, Tokens]] = {}
        self._clients: defaultdict[str | None, Tokens] = defaultdict(Tokens)
        self._slowest: list[tuple[float, int, dict[str, Any]]] = []

    def add(self, entry: dict[str, Any], day: str) -> None:
        """Add an entry of a day's file; raise one of `NOT_AN_ENTRY` if it is none of ours."""
        if entry.get("finish_reason") in NO_ANSWERS:
            return
        duration_ms = entry["duration_ms"] + 0.0
        self._timeline.add(entry, day)
        self._entries += 1
        if entry.get("status") == "ok":
            self._add_answer(entry)
        if len(self._slowest) < MAX_SLOWEST or duration_ms > self._slowest[0][0]:
            heapq.heappush(self._slowest, (duration_ms, self._entries, select_row(entry)))
            if len(self._slowest) > MAX_SLOWEST:
                heapq.heappop(self._slowest)

    def _add_answer(self, entry: dict[str, Any]) -> None:
        """Add a complete answer to its model, its day and its client."""
        model = self._find_model(entry.get("model"))
        model.add(entry)
        day = str(datetime.fromtimestamp(to_seconds(entry["finished_at"]), self._zone).date())
        if day in self._days or len(self._days) < MAX_DAYS:
            self._days.setdefault(day, defaultdict(Tokens))[model.name].add(entry)
        client = find_program(entry.get("user_agent"))
        if client not in self._clients and len(self._clients) >= COUNTED_MODELS:
            client = OTHER
        self._clients[client].add(entry)

    def _find_model(self, model: object) -> Model:
        """Return the model of this name, or that of all others where there are too many."""
        name = str(UNKNOWN if model is None else model)[:NAME_LENGTH]
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
        models = sorted(self._models.values(), key=lambda model: model.tokens.entries, reverse=True)
        clients = sorted(self._clients.items(), key=lambda item: item[1].entries, reverse=True)
        return {
            "since": to_timestamp(since, "microseconds"),
            "until": to_timestamp(until, "microseconds"),
            "bucket_seconds": timeline.width,
            "entries": self._entries,
            "buckets": timeline.figures(),
            "models": [model.figures() for model in models[:MAX_MODELS]],
            "days": [
                {"day": day, "model": name, **tokens.figures()}
                for day, by_model in sorted(self._days.items())
                for name, tokens in sorted(by_model.items())
            ],
            "clients": [
                {"client": name, **tokens.figures()} for name, tokens in clients[:MAX_MODELS]
            ],
            "slowest": [entry for *_, entry in sorted(self._slowest, reverse=True)],
        }


def select_row(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what a list shows of an entry."""
    shown = {key: entry.get(key) for key in ROW_KEYS}
    prompt = entry.get("prompt")
    return shown | {"prompt": None if prompt is None else str(prompt)[:PROMPT_LENGTH]}


def to_count(value: object) -> int:
    """Return a number of tokens, 0 where it is none."""
    return int(value) if is_number(value) and 0 <= value <= MAX_COUNT else 0


def find_program(user_agent: object) -> str | None:
    """Return the name of a client's program, without its version: `curl`, `OpenAI/Python`."""
    if not isinstance(user_agent, str) or not (match := PROGRAM.match(user_agent)):
        return None
    return match[0][:NAME_LENGTH]


def compute_figures(entries: Iterator[FoundEntry], zone: tzinfo = UTC) -> dict[str, Any]:
    """Return the figures of entries, newest first; days are those of the zone."""
    figures = Figures(zone)
    for found in entries:
        with suppress(*NOT_AN_ENTRY):
            figures.add(found.entry, found.day)
        del found
    return figures.figures()
