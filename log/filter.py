"""Which entries of the log are wanted, and how their lines are told from the others.

A deliberate oddity: a text is searched for twice. A regular expression over the raw bytes (RE2,
which reads every byte once) finds the few lines that may contain it, however JSON wrote it; only
these are parsed and searched in detail.

Texts are compared without regard to case and to how their accents are encoded, as Unicode matches
canonical equivalents (https://www.unicode.org/versions/latest/core-spec/chapter-3/).
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import chain, combinations
from typing import Any
from unicodedata import combining, decomposition, normalize

import re2  # type: ignore[import-untyped]

from upstream.model_names import DEFAULT_TAG, canonical_name, without_registry

SEARCHED_KEYS = (
    *("prompt", "system", "request", "response", "thinking", "tool_calls", "error"),
    "client_request_id",
)
PATTERN_LENGTH = 32  # characters of a long text that the pattern has
FOLDING_LENGTH = 1 << 20  # characters; folding takes twelve bytes for each
DECOMPOSED_LENGTH = 4  # characters at most for one, https://www.unicode.org/faq/normalization.html
LAST_FOLDED = 0x2FA1D  # Unicode's last character that has a case or is decomposed
ESCAPED_TIMES = 3
"""How often a text may be escaped that is found: JSON that stands in JSON."""

TERM = re.compile(r'["“„]([^"“”]+)["”“][.,;:!?)]*(?!\S)|(\S+)')
ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
SHORT_ESCAPES = dict(zip('"\\/\b\f\n\r\t', ('"', r"\\", "/", *"bfnrt"), strict=True))
LONG_ESCAPES = {short[-1]: char for char, short in SHORT_ESCAPES.items()}


@dataclass(frozen=True)
class Filter:
    """Which entries are wanted; what is empty or None excludes nothing."""

    q: str = ""
    """Words that are all in the request or the answer, case ignored; `"…"` keeps words together."""
    exact: dict[str, str] = field(default_factory=dict)
    """Keys and their values."""
    parts: dict[str, str] = field(default_factory=dict)
    """Keys and a part of their values, case ignored; of models as Ollama names them."""
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
            and all(has_part(entry, key, part) for key, part in self.parts.items())
            and (not self.since or self.since <= finished_at)
            and (not self.until or "" < finished_at < self.until)
            and (not self.terms or self._matches_text(entry))
        )

    @cached_property
    def terms(self) -> list[str]:
        """The words and the quoted texts of `q`, folded."""
        return [fold(quoted or word) for quoted, word in TERM.findall(self.q) if quoted or word]

    def _matches_text(self, entry: dict[str, Any]) -> bool:
        texts = list(iterate_texts(*map(entry.get, SEARCHED_KEYS)))
        return all(any(contains_folded(text, term) for text in texts) for term in self.terms)

    def pattern(self) -> Any:
        """Return a pattern that is found in every line of such an entry, None if there is none."""
        parts = self.written_parts().values()
        text = max(["", *self.terms, *self.exact.values(), *parts], key=len)
        return compile_json_pattern(text) if text else None

    def written_parts(self) -> dict[str, str]:
        """Return what of the parts is certainly written in such an entry."""
        return {key: written_part(key, part) for key, part in self.parts.items()}


def has_part(entry: dict[str, Any], key: str, part: str) -> bool:
    """Return whether the value of a key has a part, case ignored."""
    value = str(entry.get(key) or "")
    if key == "model" and value and without_registry(part) in canonical_name(value):
        return True
    return part.casefold() in value.casefold()


def written_part(key: str, part: str) -> str:
    """Return what of the part is certainly in the line of an entry that has it.

    A model's name may be written without `:latest`.
    """
    if key != "model":
        return part
    part = without_registry(part)
    if part in DEFAULT_TAG:
        return ""
    begins = (DEFAULT_TAG[:length] for length in range(len(DEFAULT_TAG), 0, -1))
    return part.removesuffix(next((each for each in begins if part.endswith(each)), ""))


def iterate_texts(*values: Any) -> Iterator[str]:
    """Yield every text in some JSON values."""
    left = [*values]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value


def fold(text: str) -> str:
    """Return the text in a form that is the same for texts which differ in case or in how accents
    are encoded."""
    if text.isascii():
        return text.lower()
    return normalize("NFC", normalize("NFD", text).casefold())


def unescape(text: str) -> str:
    """Return a text in which JSON stands without JSON's escapes."""

    def replace(match: re.Match[str]) -> str:
        return chr(int(match[1], 16)) if match[1] else LONG_ESCAPES[match[2]]

    replaced = ESCAPE.sub(replace, text)
    return replaced.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def contains_folded(text: str, folded: str) -> bool:
    """Return whether the text contains a folded one, as it is or in JSON that stands in it."""
    overlap = len(folded) * DECOMPOSED_LENGTH
    for _ in range(ESCAPED_TIMES):
        for start in range(0, len(text), FOLDING_LENGTH):
            if folded in fold(text[start : start + FOLDING_LENGTH + overlap]):
                return True
        if "\\" not in text:
            break
        text = unescape(text)
    return False


@cache
def foldings() -> tuple[dict[str, list[str]], set[str]]:
    """Return the characters that fold to each one, and the pairs that one character can fold to."""
    sources: dict[str, list[str]] = defaultdict(list)
    pairs = set()
    for char in map(chr, range(ord("A"), LAST_FOLDED + 1)):
        if char.casefold() == char and not decomposition(char):
            continue
        if (folded := fold(char)) != char:
            for part in folded:
                sources[part].append(char)
            pairs |= {folded[at : at + 2] for at in range(len(folded) - 1)}
    return sources, pairs


def compile_json_pattern(text: str) -> Any:
    """Return a pattern, compiled, for the text in JSON's raw bytes."""
    return re2.compile(make_pattern(text).encode())


def make_pattern(text: str, *, is_plain: bool = False) -> str:
    """Return a pattern for the text whatever its case, with JSON's escapes; also as it is where
    plain texts are searched.

    It finds a little more than the text: for "strasse" also "strase", since "ß" is one character;
    several backslashes for one, as in a string that contains JSON itself.
    """
    folded = fold(text)
    sources, pairs = foldings()
    pattern = ""
    before = ""
    for segment in split_marks(folded)[:PATTERN_LENGTH]:
        bases, marks = decompose(segment)
        optional = "?" if before + normalize("NFD", segment)[0] in pairs else ""
        written = [raw for base in bases for raw in write_char(base, sources, is_plain)]
        pattern += f"(?:{'|'.join(written)}){optional}"
        if marks:
            written = [raw for mark in marks for raw in write_char(mark, sources, is_plain)]
            pattern += f"(?:{'|'.join(written)})*"
        before = segment
    return pattern


def split_marks(text: str) -> list[str]:
    """Return the characters of a text, each with the combining marks behind it."""
    segments: list[str] = []
    for char in text:
        if combining(char) and segments:
            segments[-1] += char
        else:
            segments.append(char)
    return segments


def decompose(segment: str) -> tuple[set[str], set[str]]:
    """Return the characters with which a character and its marks can begin, and the marks that can
    follow, in whatever way they are composed."""
    base, *marks = list(normalize("NFD", segment))
    chosen = chain.from_iterable(combinations(marks, n) for n in range(len(marks) + 1))
    composed = (normalize("NFC", base + "".join(some)) for some in chosen)
    return {each for each in composed if len(each) == 1}, set(marks)


def write_char(char: str, sources: Mapping[str, Sequence[str]], is_plain: bool) -> Iterator[str]:
    """Yield patterns for a folded character in each of its cases and encodings."""
    chars = [char, *sources.get(char, [])]
    yield from (re2.escape(c) for c in chars if is_plain or (c >= " " and c not in '"\\'))
    yield from (r"\\+" + SHORT_ESCAPES[c] for c in chars if c in SHORT_ESCAPES)
    yield from ("(?i:%s)" % unicode_escape(c) for c in chars)


def unicode_escape(char: str) -> str:
    r"""Return a pattern for the character as `\uXXXX`, two of these beyond 16 bits."""
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(r"\\+u" + units[at : at + 4] for at in range(0, len(units), 4))
