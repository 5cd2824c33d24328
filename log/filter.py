"""Which entries of the log are wanted, and how their lines are told from the others.

A deliberate oddity: a text is searched for twice. A regular expression over the raw bytes (RE2,
which reads every byte once) finds the few lines that may contain it, however JSON wrote it; only
these are parsed and searched in detail.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import re2  # type: ignore[import-untyped]

SEARCHED_KEYS = ("prompt", "system", "request", "response", "thinking", "tool_calls", "error")
PATTERN_LENGTH = 32  # characters of a long text that the pattern has
FOLDING_LENGTH = 1 << 20  # characters; folding takes twelve bytes for each
LAST_FOLDED = 0x1E943  # Unicode's last letter that has a case
SHORT_ESCAPES = dict(zip('"\\/\b\f\n\r\t', ('"', r"\\", "/", *"bfnrt"), strict=True))


@dataclass(frozen=True)
class Filter:
    """Which entries are wanted; what is empty or None excludes nothing."""

    q: str = ""
    """Text in the request or the answer, case ignored."""
    exact: dict[str, str] = field(default_factory=dict)
    """Keys and their values."""
    since: str | None = None
    until: str | None = None
    """The first `finished_at` that is wanted, and the first one after the last, as the log has
    timestamps."""

    def includes_day(self, day: str) -> bool:
        """Return whether the day's file can hold such entries."""
        midnight = f"{day}T00:00:00.000000Z"
        return (self.since or "")[:10] <= day and (not self.until or midnight < self.until)

    def matches(self, entry: dict[str, Any]) -> bool:
        """Return whether the entry is one of them."""
        finished_at = str(entry.get("finished_at") or "")
        return (
            all(entry.get(key) == value for key, value in self.exact.items())
            and (not self.since or self.since <= finished_at)
            and (not self.until or finished_at < self.until)
            and (not self.q or self._matches_text(entry))
        )

    def _matches_text(self, entry: dict[str, Any]) -> bool:
        folded = self.q.casefold()
        return any(contains_folded(text, folded) for text in collect_texts(entry))

    def pattern(self) -> Any:
        """Return a pattern that is found in every line of such an entry, None if there is none."""
        text = max([self.q, *self.exact.values()], key=len)
        return compile_json_pattern(text) if text else None


def collect_texts(entry: dict[str, Any]) -> Iterator[str]:
    """Yield every text of the request and of the answer."""
    values = [entry.get(key) for key in SEARCHED_KEYS]
    while values:
        value = values.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            values += value.values()
        elif isinstance(value, list):
            values += value


def contains_folded(text: str, folded: str) -> bool:
    """Return whether the text contains a case-folded one, case ignored."""
    return any(
        folded in text[start : start + FOLDING_LENGTH + len(folded)].casefold()
        for start in range(0, len(text), FOLDING_LENGTH)
    )


@cache
def foldings() -> tuple[dict[str, list[str]], set[str]]:
    """Return the characters that fold to each one, and the pairs that one character can fold to."""
    sources: dict[str, list[str]] = defaultdict(list)
    pairs = set()
    for char in map(chr, range(ord("A"), LAST_FOLDED + 1)):
        if (folded := char.casefold()) != char:
            for part in folded:
                sources[part].append(char)
            pairs |= {folded[at : at + 2] for at in range(len(folded) - 1)}
    return sources, pairs


def compile_json_pattern(text: str) -> Any:
    """Return a pattern for the text in JSON's raw bytes, whatever its case and its escapes.

    It finds a little more than the text: for "strasse" also "strase", since "ß" is one character;
    several backslashes for one, as in a string that contains JSON itself.
    """
    folded = text.casefold()[:PATTERN_LENGTH]
    sources, pairs = foldings()
    pattern = ""
    for at, char in enumerate(folded):
        chars = [char, *sources.get(char, [])]
        raw = [re2.escape(c) for c in chars if c >= " " and c not in '"\\']
        escaped = [r"\\+" + SHORT_ESCAPES[c] for c in chars if c in SHORT_ESCAPES]
        escaped += ["(?i:%s)" % unicode_escape(c) for c in chars]
        optional = "?" if folded[at - 1 : at + 1] in pairs else ""
        pattern += f"(?:{'|'.join(raw + escaped)}){optional}"
    return re2.compile(pattern.encode())


def unicode_escape(char: str) -> str:
    r"""Return a pattern for the character as `\uXXXX`, two of these beyond 16 bits."""
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(r"\\+u" + units[at : at + 4] for at in range(0, len(units), 4))
