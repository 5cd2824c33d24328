"""Figures about speed and failures over a store: what `log.figures` shows, by the engine.

What is counted of an entry is read from the store once, and held as numbers: it is reading that
takes time. Beyond `MAX_HELD` entries it is read for each query, and percentiles come from samples,
as those of `log.figures` do.
"""

import operator
from collections.abc import Callable, Sequence
from datetime import UTC, timedelta, tzinfo
from typing import Any

from log.columns import EPOCH
from log.entry import NO_ANSWERS
from log.figures import (
    COUNTED_MODELS,
    MAX_COUNT,
    MAX_DAYS,
    MAX_MODELS,
    MAX_SLOWEST,
    MAX_VALUE,
    NAME_LENGTH,
    OTHER,
    PROGRAM,
    PROMPT_LENGTH,
    ROW_KEYS,
    SAMPLE,
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

MAX_HELD = 10_000_000
MAX_DOUBLE = 4_000_000
"""Up to so many entries times are held as they are, beyond that with seven digits."""

SEVEN_DIGITS = 1 - 2**-22
MICROSECONDS = 1_000_000
RANKS = (50, 95, 99)
CLIENT = f"nullif(regexp_extract(name, '^{PROGRAM.pattern}'), '')[:{NAME_LENGTH}]"
OK = "FILTER (status = 'ok')"

TOKENS_PER_SECOND = f"""CASE
    WHEN response_ms > 0 THEN response_tokens / response_ms * 1000
    WHEN streamed IS FALSE OR response_tokens < 2 THEN NULL
    WHEN duration_ms - ttft_ms > {ONE_PIECE_MS}
        THEN (response_tokens - 1) / (duration_ms - ttft_ms) * 1000
    END"""
"""The rule of `log.speed`, whose tests hold for this as well."""


TOKENS = ", ".join(
    [f"count(*) {OK}"]
    + [f"coalesce(sum({key}) {OK}, 0)::BIGINT" for key in ("prompt_tokens", "response_tokens")]
)
"""How many complete answers there are, and their tokens."""


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
        self._entries = (
            f"(SELECT *, {TOKENS_PER_SECOND} AS speed"
            f" FROM {table} WHERE {conditions} AND duration_ms IS NOT NULL"
            f" AND coalesce(finish_reason NOT IN ({answers}), true) AND moment IS NOT NULL)"
        )

    def compute(self) -> dict[str, Any]:
        """Return what is shown."""
        models = self._hold()
        if not models:
            return Figures(self._zone).figures()
        ((first, last),) = self._select("min(moment), max(moment)")
        since, until = first / MICROSECONDS, last / MICROSECONDS
        self._clock = f"(moment // {MICROSECONDS} + {self._make_offset(since, until)})"
        width = choose_width(to_clock(since, self._zone), to_clock(until, self._zone))
        self._names = self._name_models(models)
        return {
            "since": to_timestamp(since, "microseconds"),
            "until": to_timestamp(until, "microseconds"),
            "bucket_seconds": width,
            "entries": self._count,
            "buckets": self._count_periods(width),
            "models": self._count_models(),
            "days": self._count_days(),
            "clients": self._count_clients(),
            "slowest": self._find_slowest(),
        }

    def _hold(self) -> dict[int, str]:
        """Make the table of what is counted, with a row of numbers for each entry; return the names
        of models by their numbers in it."""
        for key in ("model", "user_agent"):
            self._query(
                f"CREATE OR REPLACE TEMP TABLE {key}s AS SELECT {key} AS name,"
                " count(*) AS entries, row_number() OVER ()::INTEGER AS number"
                f" FROM {self._entries} GROUP BY {key}",
                *self._values,
            )
        models = self._query(f"SELECT number, coalesce(name, '{UNKNOWN}'), entries FROM models")
        self._count = sum(count for *_, count in models)
        number = "DOUBLE" if self._count <= MAX_DOUBLE else "REAL"
        tokens, times = ("prompt_tokens", "response_tokens"), ("ttft_ms", "duration_ms", "load_ms")
        columns = [
            "moment",
            "models.number AS model",
            "user_agents.number AS user_agent",
            "TRY_CAST(status AS ENUM ('ok', 'error', 'cancelled')) AS status",
            # as `log.figures.to_count` counts them
            *(f"CASE WHEN {key} BETWEEN 0 AND {MAX_COUNT} THEN {key} END::UINTEGER AS {key}"
              for key in tokens),
            *(f"{key}::{number} AS {key}" for key in (*times, "speed")),
        ]  # fmt: skip
        sql = (
            f"SELECT {', '.join(columns)} FROM {self._entries} AS entries"
            " JOIN models ON entries.model IS NOT DISTINCT FROM models.name"
            " JOIN user_agents ON entries.user_agent IS NOT DISTINCT FROM user_agents.name"
        )
        self._counted, self._counted_values = f"({sql})", self._values
        if self._count <= MAX_HELD:
            self._query(f"CREATE OR REPLACE TEMP TABLE counted AS {sql}", *self._values)
            self._counted, self._counted_values = "counted", []
        return {number: name for number, name, _ in models}

    def _select(self, what: str, rest: str = "", *values: Any) -> list[tuple[Any, ...]]:
        return self._query(
            f"SELECT {what} FROM {self._counted} {rest}", *self._counted_values, *values
        )

    def _name_models(self, models: dict[int, str]) -> dict[int, str]:
        """Return under which name a model is counted, by its number, for those that answered."""
        newest = self._select(
            "model", "WHERE status = 'ok' GROUP BY model ORDER BY max(moment) DESC"
        )
        names = name_models([models[number] for (number,) in newest])
        return {number: names[models[number]] for (number,) in newest}

    def _make_offset(self, since: float, until: float) -> str:
        """Return SQL for how many seconds the clock of the zone is ahead of UTC at the moment."""
        changes = find_changes(since, until, self._zone)
        whens = " ".join(f"WHEN moment < {at} THEN {offset}" for at, offset in changes[:-1])
        return f"(CASE {whens} ELSE {changes[-1][1]} END)" if whens else str(changes[-1][1])

    def _percentiles(self, value: str, condition: str = "true") -> str:
        ranks = [rank / 100 for rank in RANKS]
        is_held = self._counted == "counted"
        quantile = "quantile_cont" if is_held else "reservoir_quantile"
        more = "" if is_held else f", {SAMPLE}"
        filter = f"FILTER ({condition} AND abs({value}) < {MAX_VALUE})"
        return f"{quantile}({value}, {ranks}{more}) {filter}"

    def _count_periods(self, width: int) -> list[dict[str, Any]]:
        number = f"{self._clock} // {width} AS number"
        rows = self._select(
            f"{number}, count(*) {OK},"
            " count(*) FILTER (status = 'error'), count(*) FILTER (status = 'cancelled'),"
            f" {TOKENS}, {self._percentiles('ttft_ms')}",
            "GROUP BY number",
        )
        # apart, as each holds all of its values
        durations = dict(
            self._select(
                f"{number}, {self._percentiles('duration_ms', OK[8:-1])}", "GROUP BY number"
            )
        )
        counted = {each: (*values, durations[each]) for each, *values in rows}
        none = (0, 0, 0, 0, 0, 0, None, None)
        return [
            {"start": start, **name_period(*counted.get(number, none))}
            for number, start in list_periods(counted, width, self._zone)
        ]

    def _count_models(self) -> list[dict[str, Any]]:
        names = list(dict.fromkeys(self._names.values()))
        rows = self._select(
            f"place, {TOKENS}, {self._percentiles('speed')}, {self._percentiles('load_ms')}",
            "JOIN (SELECT unnest(?::INTEGER[]) AS model, unnest(?::SMALLINT[]) AS place)"
            " USING (model) WHERE status = 'ok' GROUP BY place",
            list(self._names),
            [names.index(name) for name in self._names.values()],
        )
        named = [(names[place], *values) for place, *values in rows]
        named.sort(key=lambda row: (-row[1], row[0]))
        return [
            {"model": name, **name_tokens(*tokens),
             "tokens_per_second": name_ranks(speed), "load_ms": name_ranks(load)}
            for name, *tokens, speed, load in named[:MAX_MODELS]
        ]  # fmt: skip

    def _count_days(self) -> list[dict[str, Any]]:
        """Return the tokens by day and model."""
        rows = self._select(
            f"{self._clock} // {DAY_SECONDS} AS day, model, {TOKENS}",
            "WHERE status = 'ok' GROUP BY day, model",
        )
        known = {*sorted({day for day, *_ in rows})[-MAX_DAYS:]}
        counted: dict[tuple[int, str], list[int]] = {}
        for day, model, *tokens in rows:
            if day in known:
                sums = counted.setdefault((day, self._names[model]), [0, 0, 0])
                sums[:] = map(operator.add, sums, tokens)
        return [
            {"day": str((EPOCH + timedelta(days=day)).date()), "model": name,
             **name_tokens(*tokens)}
            for (day, name), tokens in sorted(counted.items())
        ]  # fmt: skip

    def _count_clients(self) -> list[dict[str, Any]]:
        sums = ", ".join(f"sum({key})::BIGINT" for key in ("answers", "asked", "said"))
        rows = self._query(
            f"SELECT {CLIENT} AS client, {sums} FROM (SELECT user_agent, {TOKENS}"
            f" FROM {self._counted} WHERE status = 'ok' GROUP BY user_agent)"
            " AS by_agent (number, answers, asked, said) JOIN user_agents USING (number)"
            f" GROUP BY client ORDER BY 2 DESC, coalesce(client, '') LIMIT {MAX_MODELS}",
            *self._counted_values,
        )
        return [{"client": name, **name_tokens(*tokens)} for name, *tokens in rows]

    def _find_slowest(self) -> list[dict[str, Any]]:
        order = f"ORDER BY duration_ms DESC LIMIT {MAX_SLOWEST}"
        slowest = self._select("moment, duration_ms", order)
        moments = ", ".join(str(moment) for moment, _ in slowest)  # few groups of rows have them
        rows = self._query(
            f"SELECT {', '.join(ROW_KEYS)}, prompt[:{PROMPT_LENGTH}] FROM {self._entries}"
            f" WHERE moment IN ({moments}) AND duration_ms >= ? {order}",
            *self._values, slowest[-1][1] * SEVEN_DIGITS,
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
    ok: int, error: int, cancelled: int, _: int, prompt_tokens: int, response_tokens: int,
    ttft_ms: Sequence[float] | None, duration_ms: Sequence[float] | None,
) -> dict[str, Any]:  # fmt: skip
    """Return what is shown of a period."""
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
