"""Periods of equal length on the clock of a time zone, and the moments of that clock.

So a day is a day, also when the clocks change.
"""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta, tzinfo

MAX_PERIODS = 120
FIRST_SECOND, LAST_SECOND = -62_135_510_400, 253_402_214_400
"""Of the days between which a clock in any zone shows a year from 1 to 9999."""
HOUR = 3600
DAY_SECONDS = 24 * HOUR
WIDTHS = [1, 5, 15, 30, 60, 300, 900, 1800]
WIDTHS += [HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY_SECONDS]
WIDTHS += [weeks * 7 * DAY_SECONDS for weeks in (1, 2, 4, 12, 48, 480, 4800)]
"""Seconds that a period may have: a multiple each of those before."""


def choose_width(first: float, last: float) -> int:
    """Return how many seconds a period has, where a clock goes from `first` to `last`."""
    return next(width for width in WIDTHS if last // width - first // width < MAX_PERIODS)


def list_periods(known: Collection[int], width: int, zone: tzinfo) -> list[tuple[int, str]]:
    """Return the periods from the first that is known to the last: their numbers, their starts."""
    numbers = range(min(known), max(known) + 1) if known else ()
    starts = {number: from_clock(number * width, zone) for number in numbers}
    return [
        (number, to_timestamp(start))
        for number, start in starts.items()
        # what the clock skips in spring, where it goes by shorter periods than days
        if number in known or starts.get(number + 1) != start
    ]


def get_offset(moment: float, zone: tzinfo) -> int:
    """Return how many seconds a zone's clock is ahead of UTC at a moment."""
    offset = datetime.fromtimestamp(moment, zone).utcoffset() or timedelta()
    return int(offset.total_seconds())


def to_clock(moment: float, zone: tzinfo) -> float:
    """Return what a clock in the zone shows at a moment, in seconds since it showed 1970."""
    return moment + get_offset(moment, zone)


def from_clock(shown: int, zone: tzinfo) -> float:
    """Return the moment at which a clock in the zone shows this, the first one if there are two."""
    shown = min(max(shown, FIRST_SECOND), LAST_SECOND)
    return datetime.fromtimestamp(shown, UTC).replace(tzinfo=zone).timestamp()


def to_seconds(timestamp: str) -> float:
    """Return a timestamp of the log in seconds since 1970."""
    return datetime.fromisoformat(timestamp).timestamp()


def to_timestamp(seconds: float, precision: str = "seconds") -> str:
    """Return seconds since 1970 as a timestamp."""
    return datetime.fromtimestamp(seconds, UTC).isoformat("T", precision).replace("+00:00", "Z")
