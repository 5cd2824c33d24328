"""What a list shows of an entry: the beginnings of its texts, and where a search matched."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from log.filter import (
    DECOMPOSED_LENGTH,
    ESCAPED_TIMES,
    SEARCHED_KEYS,
    fold,
    iterate_texts,
    unescape,
)

BEGINNING = 200
"""How many characters of the prompt and of the answer are shown."""

CONTEXT = 60
"""How many characters are shown on each side of a match."""

WINDOW = 4096


def make_preview(entry: Mapping[str, Any], terms: Sequence[str]) -> dict[str, Any]:
    """Return the preview of an entry that was found by these folded terms."""
    beginnings = {key: beginning(entry.get(key)) for key in ("prompt", "response")}
    return beginnings | {"match": find_match(entry, terms)}


def beginning(text: object) -> str | None:
    """Return the first characters of a text."""
    return None if text is None else str(text)[:BEGINNING]


def find_match(entry: Mapping[str, Any], terms: Sequence[str]) -> dict[str, str] | None:
    """Return where the terms are found: the key, the match, what stands around it.

    Of several places it is the one with most terms around it, and of these that of the longest one.
    """
    best: dict[str, str] | None = None
    most = (0, 0)
    for key in SEARCHED_KEYS if any(terms) else ():
        for text in iterate_texts(entry.get(key)):
            for term in terms:
                if not (found := locate(text, term)):
                    continue
                whole, start, end = found
                first, last = max(start - CONTEXT, 0), end + CONTEXT
                passage = fold(whole[first:last])
                score = (sum(each in passage for each in terms), len(term))
                if score > most:
                    most = score
                    best = {
                        "key": key,
                        "before": whole[first:start],
                        "text": whole[start:end],
                        "after": whole[end:last],
                    }
    return best


def locate(text: str, term: str) -> tuple[str, int, int] | None:
    """Return where a folded term begins and ends in the text, or in JSON that stands in it."""
    for _ in range(ESCAPED_TIMES):
        for start, window in windows(text, len(term) * DECOMPOSED_LENGTH):
            if term in fold(window):
                begin, end = narrow(window, term)
                return text, start + begin, start + end
        if "\\" not in text:
            break
        text = unescape(text)
    return None


def windows(text: str, overlap: int) -> Iterator[tuple[int, str]]:
    """Yield pieces of a text, each with the beginning of the next one, and where they begin."""
    for start in range(0, len(text), WINDOW):
        yield start, text[start : start + WINDOW + overlap]


def narrow(text: str, term: str) -> tuple[int, int]:
    """Return the shortest stretch of a text that has a folded term, the first one."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if term in fold(text[:middle]) else (middle + 1, high)
    end = low
    low, high = 0, end
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if term in fold(text[middle:end]) else (low, middle - 1)
    return low, end
