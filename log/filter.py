"""Which entries of the log are meant, and how their lines are told from the others'.

A deliberate oddity: text is looked for twice. A regular expression over the raw bytes (RE2, which
reads every byte once) names the few lines that may hold it, however JSON wrote it there; only these
are parsed and looked into.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import re2  # type: ignore[import-untyped]

SEARCHED = ("prompt", "system", "request", "response", "thinking", "tool_calls", "error")
PATTERN_LENGTH = 32  # characters of a long text that are looked for in the raw bytes
FOLDING_PIECE = 1 << 20  # characters; folding takes twelve bytes for each
LAST_FOLDED = 0x1E943  # Unicode's last letter that has a case
SHORT_ESCAPES = dict(zip('"\\/\b\f\n\r\t', ('"', r"\\", "/", *"bfnrt"), strict=True))


@dataclass(frozen=True)
class Filter:
    """Which entries are meant; what is empty or None asks for nothing."""

    q: str = ""
    """Text in what was asked or answered, whatever its case."""
    exact: dict[str, str] = field(default_factory=dict)
    """Keys and the values that they have to have."""
    since: str | None = None
    until: str | None = None
    """The first moment of `finished_at`, and the first one after the last, as the log writes it."""

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
            and (not self.q or any(holds(text, self.q.casefold()) for text in texts(entry)))
        )

    def pattern(self) -> Any:
        """Return what every line of such an entry matches, None where nothing can be said."""
        sought = max([self.q, *self.exact.values()], key=len)
        return json_pattern(sought) if sought else None


def texts(entry: dict[str, Any]) -> Iterator[str]:
    """Yield every text of what was asked and answered."""
    left = [entry.get(key) for key in SEARCHED]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value


def holds(text: str, folded: str) -> bool:
    """Return whether the text holds the other one, which is folded, whatever the case."""
    return any(
        folded in text[start : start + FOLDING_PIECE + len(folded)].casefold()
        for start in range(0, len(text), FOLDING_PIECE)
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


def json_pattern(text: str) -> Any:
    """Return a pattern for the text in JSON's raw bytes, whatever its case and its escapes.

    It finds a little more than the text: a "strasse" also where "strase" stands, since "ß" is one
    character; several backslashes for one, as in a string that itself holds JSON.
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
    r"""Return a pattern for the character as `\uXXXX`, as two of these beyond 16 bits."""
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(r"\\+u" + units[at : at + 4] for at in range(0, len(units), 4))
