"""Figures about speed and failures over a store: what `log.figures` shows, by the engine.

Percentiles are exact up to `MAX_EXACT` entries; beyond that they come from t-digests
(https://arxiv.org/abs/1902.04023), whose error is least at both ends.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, timedelta, tzinfo
from typing import Any

from log.columns import EPOCH
from log.columns import MAX_EXACT as MAX_COUNT
from log.entry import NO_ANSWERS
from log.figures import (
    COUNTED_MODELS,
    MAX_DAYS,
    MAX_MODELS,
    MAX_SLOWEST,
    NAME_LENGTH,
    OTHER,
    PROGRAM,
    PROMPT_LENGTH,
    ROW_KEYS,
    UNKNOWN,
    Figures,
    compute_figures,
)
from log.periods import (
    DAY_SECONDS,
    choose_width,
    get_offset,
    list_periods,
    to_clock,
    to_timestamp,
)
from log.speed import ONE_PIECE_MS
from log.store_reader import Group, StoreReader
from upstream.model_names import canonical_name

MAX_EXACT = 10_000_000
MICROSECONDS = 1_000_000
RANKS = (50, 95, 99)
MODEL = f"coalesce(model, '{UNKNOWN}')"
OK = "FILTER (status = 'ok')"

TOKENS_PER_SECOND = f"""CASE
    WHEN response_ms > 0 THEN response_tokens / response_ms * 1000
    WHEN streamed IS FALSE OR response_tokens < 2 THEN NULL
    WHEN duration_ms - ttft_ms > {ONE_PIECE_MS}
        THEN (response_tokens - 1) / (duration_ms - ttft_ms) * 1000
    END"""
"""The rule of `log.speed`, whose tests hold for this as well."""


def count_tokens(key: str) -> str:
    """Return SQL for the tokens of complete answers, as `log.figures.to_count` counts them."""
    return f"coalesce(sum({key}) {OK[:-1]} AND {key} BETWEEN 0 AND {MAX_COUNT}), 0)::BIGINT"


TOKENS = f"count(*) {OK}, {count_tokens('prompt_tokens')}, {count_tokens('response_tokens')}"


def compute_store_figures(
    reader: StoreReader,
    zone: tzinfo = UTC,
    on_progress: Callable[[int], None] = lambda bytes_read: None,
) -> dict[str, Any]:
    """Return the figures of the entries that the reader finds; days are those of the zone.

    Raises:
        StoreError: the store cannot be read.
    """
    if reader.filter.terms:  # only `Filter` can tell what matches a text
        return compute_figures(reader.find(on_progress), zone)

    def compute(group: Group, conditions: str, values: list[str]) -> dict[str, Any]:
        return StoreFigures(reader, group.distinct, conditions, values, zone).compute()

    return reader.aggregate(compute) or Figures(zone).figures()


class StoreFigures:
    """Counts the rows of a table that meet a condition."""

    def __init__(
        self, reader: StoreReader, table: str, conditions: str, values: list[str], zone: tzinfo
    ) -> None:
        self._query = reader.query
        self._zone = zone
        self._values = values
        answers = ", ".join(f"'{reason}'" for reason in NO_ANSWERS)
        self._table = (
            f"(SELECT *, {TOKENS_PER_SECOND} AS speed"
            f" FROM {table} WHERE {conditions} AND duration_ms IS NOT NULL"
            f" AND coalesce(finish_reason NOT IN ({answers}), true) AND moment IS NOT NULL)"
        )

    def compute(self) -> dict[str, Any]:
        """Return what is shown."""
        models = self._select(
            f"{MODEL} AS name, count(*), min(moment), max(moment)," f" max(moment) {OK} AS newest",
            "GROUP BY name ORDER BY newest DESC NULLS LAST",
        )
        if not models:
            return Figures(self._zone).figures()
        entries = sum(count for _, count, *_ in models)
        first = min(first for _, _, first, *_ in models)
        last = max(last for _, _, _, last, _ in models)
        since, until = first / MICROSECONDS, last / MICROSECONDS
        ends = to_clock(since, self._zone), to_clock(until, self._zone)
        self._clock = f"(moment // {MICROSECONDS} + {self._make_offset(since, until)})"
        self._quantile = "quantile_cont" if entries <= MAX_EXACT else "approx_quantile"
        width = choose_width(*ends)
        names = name_models([model for model, *_, newest in models if newest])
        days, clients = self._count_days_and_clients(names)
        return {
            "since": to_timestamp(since, "microseconds"),
            "until": to_timestamp(until, "microseconds"),
            "bucket_seconds": width,
            "entries": entries,
            "buckets": self._count_periods(width),
            "models": self._count_models(names),
            "days": days,
            "clients": clients,
            "slowest": self._find_slowest(),
        }

    def _select(self, what: str, rest: str = "") -> list[tuple[Any, ...]]:
        return self._query(f"SELECT {what} FROM {self._table} {rest}", *self._values)

    def _make_offset(self, since: float, until: float) -> str:
        """Return SQL for how many seconds the clock of the zone is ahead of UTC at the moment."""
        changes = find_changes(since, until, self._zone)
        whens = " ".join(f"WHEN moment < {at} THEN {offset}" for at, offset in changes[:-1])
        return f"(CASE {whens} ELSE {changes[-1][1]} END)" if whens else str(changes[-1][1])

    def _percentiles(self, value: str, condition: str = "true") -> str:
        ranks = [rank / 100 for rank in RANKS]
        return f"{self._quantile}({value}, {ranks}) FILTER ({condition} AND {value} IS NOT NULL)"

    def _count_periods(self, width: int) -> list[dict[str, Any]]:
        rows = self._select(
            f"{self._clock} // {width} AS number, count(*) {OK},"
            " count(*) FILTER (status = 'error'), count(*) FILTER (status = 'cancelled'),"
            f" {self._percentiles('ttft_ms')}, {self._percentiles('duration_ms', OK[8:-1])},"
            f" {TOKENS}",
            "GROUP BY number",
        )
        counted = {int(number): values for number, *values in rows}
        none = (0, 0, 0, None, None, 0, 0, 0)
        return [
            {"start": start, **name_period(*counted.get(number, none))}
            for number, start in list_periods(counted, width, self._zone)
        ]

    def _select_by_model(
        self, what: str, names: dict[str, str], rest: str
    ) -> list[tuple[Any, ...]]:
        """Select from the complete answers, with the name of the model as it is counted."""
        return self._query(
            f"SELECT {what} FROM {self._table} JOIN (SELECT unnest(?::VARCHAR[]) AS known,"
            f" unnest(?::VARCHAR[]) AS name) ON {MODEL} = known"
            f" WHERE status = 'ok' {rest}",
            *self._values, list(names), list(names.values()),
        )  # fmt: skip

    def _count_models(self, names: dict[str, str]) -> list[dict[str, Any]]:
        what = f"name, {TOKENS}, {self._percentiles('speed')}, {self._percentiles('load_ms')}"
        return [
            {"model": name, **name_tokens(*tokens),
             "tokens_per_second": name_ranks(speed), "load_ms": name_ranks(load)}
            for name, *tokens, speed, load in self._select_by_model(
                what, names, f"GROUP BY name ORDER BY 2 DESC, name LIMIT {MAX_MODELS}"
            )
        ]  # fmt: skip

    def _count_days_and_clients(
        self, names: dict[str, str]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the tokens by day and model, and by client; both in one pass."""
        program = f"nullif(regexp_extract(user_agent, '^{PROGRAM.pattern}'), '')[:{NAME_LENGTH}]"
        rows = self._select_by_model(
            f"grouping(name), {self._clock} // {DAY_SECONDS} AS day, name,"
            f" {program} AS program, {TOKENS}",
            names,
            "GROUP BY GROUPING SETS ((day, name), (program))",
        )
        by_day = sorted((day, name, *more) for no_day, day, name, _, *more in rows if not no_day)
        known = sorted({day for day, *_ in by_day})[-MAX_DAYS:]
        days = [
            {"day": str((EPOCH + timedelta(days=day)).date()), "model": name,
             **name_tokens(*tokens)}
            for day, name, *tokens in by_day
            if day in known
        ]  # fmt: skip
        by_client = [(client, *more) for no_day, _, _, client, *more in rows if no_day]
        by_client.sort(key=lambda row: (-row[1], row[0] or ""))
        clients = [{"client": name, **name_tokens(*tokens)} for name, *tokens in by_client]
        return days, clients[:MAX_MODELS]

    def _find_slowest(self) -> list[dict[str, Any]]:
        slowest = self._select("finished_at, id", f"ORDER BY duration_ms DESC LIMIT {MAX_SLOWEST}")
        # only now the texts, as where they stand is known
        times, ids = (list(values) for values in zip(*slowest, strict=True))
        marks = ", ".join("?" * len(ids))
        rows = self._query(
            f"SELECT {', '.join(ROW_KEYS)}, prompt[:{PROMPT_LENGTH}] FROM {self._table}"
            f" WHERE finished_at IN ({marks}) AND id IN ({marks}) ORDER BY duration_ms DESC",
            *self._values, *times, *ids,
        )  # fmt: skip
        return [dict(zip((*ROW_KEYS, "prompt"), row, strict=True)) for row in rows]


def name_models(models: list[str]) -> dict[str, str]:
    """Return, for each name of a model, the newest first, that under which it is counted."""
    shown: dict[str, str] = {}
    names = {}
    for model in models:
        name = model[:NAME_LENGTH]
        if len(shown) < COUNTED_MODELS:
            shown.setdefault(canonical_name(name), name)
        names[model] = shown.get(canonical_name(name), OTHER)
    return names


def name_period(
    ok: int, error: int, cancelled: int,
    ttft_ms: Sequence[float] | None, duration_ms: Sequence[float] | None,
    *tokens: int,
) -> dict[str, Any]:  # fmt: skip
    """Return what is shown of a period."""
    _, prompt_tokens, response_tokens = tokens
    return {
        "ok": ok,
        "error": error,
        "cancelled": cancelled,
        "ttft_ms": name_ranks(ttft_ms),
        "duration_ms": name_ranks(duration_ms),
        "prompt_tokens": prompt_tokens,
        "response_tokens": response_tokens,
    }


def name_ranks(values: Sequence[float] | None) -> dict[str, float] | None:
    """Return percentiles by their names."""
    if not values or values[0] is None:
        return None
    return {f"p{rank}": round(value, 3) for rank, value in zip(RANKS, values, strict=True)}


def name_tokens(entries: int, prompt_tokens: int, response_tokens: int) -> dict[str, int]:
    """Return counts by their names."""
    return {
        "entries": entries,
        "prompt_tokens": prompt_tokens,
        "response_tokens": response_tokens,
    }


def find_changes(since: float, until: float, zone: tzinfo) -> list[tuple[int, int]]:
    """Return how far a zone's clock is ahead of UTC, in seconds, each until a moment; the last one
    until the end."""
    changes = []
    moment, offset = since, get_offset(since, zone)
    while moment < until:
        following = min(moment + DAY_SECONDS, until)
        if get_offset(following, zone) != offset:
            low, high = int(moment), int(following) + 1
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if get_offset(middle, zone) == offset else (low, middle)
            changes.append((high * MICROSECONDS, offset))
            offset = get_offset(following, zone)
        moment = following
    return [*changes, (0, offset)]
