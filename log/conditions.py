"""A filter as conditions of SQL: what every wanted row meets, whatever `Filter` then says of it."""

import re2  # type: ignore[import-untyped]

from log.columns import KEYS
from log.filter import SEARCHED_KEYS, Filter, fold, make_pattern


def make_conditions(filter: Filter) -> tuple[str, list[str]]:
    """Return a condition of SQL, and its values, that every wanted row meets."""
    conditions, values = ["true"], []
    for key, value in filter.exact.items():
        conditions.append(f"{name_column(key)} = ?")
        values.append(value)
    for comparison, end in ((">=", filter.since), ("<", filter.until)):
        if end:
            # without a time of its own an entry is where it was found: `Filter` decides
            conditions.append(f"(finished_at {comparison} ? OR timed IS FALSE)")
            values.append(end)
    searched: list[tuple[tuple[str, ...], str]] = [
        ((key,), part) for key, part in filter.written_parts().items()
    ]
    searched += [(SEARCHED_KEYS, max(filter.terms, key=len))] if filter.terms else []
    for keys, text in searched:
        if text:
            contained = [make_contains(name_column(key), text) for key in keys]
            columns = " OR ".join(condition for condition, _ in contained)
            conditions.append(f"(line IS NOT NULL OR {columns})")
            values += [value for _, given in contained for value in given]
    return " AND ".join(conditions), values


def make_contains(column: str, text: str) -> tuple[str, list[str]]:
    """Return a condition that a column meets where it contains a text, and its values.

    Most columns are ASCII without backslashes. There a text can only stand as it is, in any case,
    and is found several times faster.
    """
    text = fold(text)
    is_rich = rf"(contains({column}, '\') OR strlen({column}) <> length({column}))"
    condition = f"{is_rich} AND regexp_matches({column}, ?)"
    values = [make_pattern(text, is_plain=True)]
    if text.isascii():
        condition = f"regexp_matches({column}, ?) OR {condition}"
        values.insert(0, "(?i)" + re2.escape(text))
    return f"({condition})", values


def name_column(key: str) -> str:
    """Return the name of a column in SQL; raise ValueError if it is none."""
    if key not in KEYS:
        raise ValueError(f"{key!r} is no key of an entry")
    return f'"{key}"'
