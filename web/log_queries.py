"""What may be asked of the log over HTTP: the parameters of its routes."""

import dataclasses
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from log.entry import LogEntry, Status, format_timestamp
from log.filter import Filter
from log.reader import CURSOR, MAX_CURSOR

ONE_DAY = timedelta(days=1)


def parse_time(text: str) -> datetime:
    """Return the time that a day, or a date with a time, means; in UTC unless it says otherwise."""
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise ValueError("Input should be a day or a time, as in 2026-11-24T15:00Z") from exc


def parse_since(text: str) -> str:
    """Return the time as a timestamp of the log."""
    return format_timestamp(parse_time(text))


def parse_until(text: str) -> str:
    """Return the time as a timestamp of the log; for a day, the end of the day."""
    end = parse_time(text)
    if re.fullmatch(r"[\d-]+", text):
        end = min(end, datetime.max.replace(tzinfo=UTC) - ONE_DAY) + ONE_DAY
    return format_timestamp(end)


DAY_OR_TIME = WithJsonSchema(
    {"type": "string", "anyOf": [{"format": "date"}, {"format": "date-time"}]}
)


class PeriodQuery(BaseModel):
    """When an entry was finished."""

    model_config = ConfigDict(extra="forbid")

    since: Annotated[str, AfterValidator(parse_since), DAY_OR_TIME] | None = Field(
        None, description="a day or a time; what was finished then or later"
    )
    until: Annotated[str, AfterValidator(parse_until), DAY_OR_TIME] | None = Field(
        None, description="a day, which is included, or a time, which is not"
    )


EXACT: tuple[str, ...] = ("status", "conversation")
PARTIAL: tuple[str, ...] = ("model", "endpoint", "client", "user_agent")
"""The parameters that are a value of an entry, and a part of one."""


class FilterQuery(PeriodQuery):
    """Which entries are wanted."""

    q: str = Field(
        "",
        max_length=1000,
        description='words that are all in the request or the answer; `"…"` keeps words together',
    )
    status: Status | None = Field(None, description="how the request ended")
    conversation: str | None = Field(None, description="the id of a conversation")
    model: str | None = Field(None, description="a part of the model's name")
    endpoint: str | None = Field(None, description="a part of the request's path")
    client: str | None = Field(None, description="a part of the client's address")
    user_agent: str | None = Field(None, description="a part of the client's name")

    def to_filter(self) -> Filter:
        """Return the filter that a reading process applies."""
        given = {key: value for key, value in self.model_dump().items() if value}
        exact, parts = (
            {key: str(given[key]) for key in keys if key in given} for keys in (EXACT, PARTIAL)
        )
        return Filter(self.q, exact, parts, self.since, self.until)


FIELDS = (*(field.name for field in dataclasses.fields(LogEntry)), "preview")


def split_names(text: str) -> list[str]:
    """Return the names in a list of them, separated by commas; none twice."""
    return list(dict.fromkeys(re.split(", ?", text))) if text else []


def check_fields(text: str) -> str:
    """Return the list of keys; raise ValueError if an entry does not have one of them."""
    if unknown := [name for name in split_names(text) if name not in FIELDS]:
        raise ValueError(f"Input should be keys of an entry, or preview; {unknown[0]!r} is unknown")
    return text


KEY = f"({'|'.join(FIELDS)})"
KEYS = WithJsonSchema({"type": "string", "pattern": f"^({KEY}(, ?{KEY})*)?$"})


ZONES = available_timezones()


def check_zone(name: str) -> str:
    """Return the name of a time zone; raise ValueError if there is none."""
    if name not in ZONES:
        raise ValueError("Input should be the IANA name of a time zone, as in Europe/Berlin")
    return name


ZONE = WithJsonSchema({"type": "string", "enum": sorted(ZONES)})


class FiguresQuery(FilterQuery):
    """Of which entries figures are wanted, and whose days."""

    tz: Annotated[str, AfterValidator(check_zone), ZONE] | None = Field(
        None, description="the time zone of days and hours; UTC if left out"
    )


class LogQuery(FilterQuery):
    """Which entries are wanted, how many, and what of them."""

    fields: Annotated[str, AfterValidator(check_fields), KEYS] | None = Field(
        None,
        description="the keys that are wanted, separated by commas; `preview` is the beginning of "
        "the prompt and of the answer, and the place where `q` matched",
        examples=["id,finished_at,model,preview"],
    )
    limit: int | None = Field(None, ge=1, le=1000, description="50, or all as JSON lines")
    before: str | None = Field(
        None, pattern=CURSOR, max_length=MAX_CURSOR, description="`next` of the page before"
    )
