"""JSON as leniently as Ollama reads it, by the rules of Go's `encoding/json`.

From its documentation and source (https://pkg.go.dev/encoding/json#Unmarshal, `decode.go`,
`fold.go`, `scanner.go`):

1. Bytes that are not UTF-8, and surrogates without their other half, become U+FFFD. (Here the
   bytes of one broken character become one, in Go each of them does.)
2. A decoder reads the first value and ignores what follows it.
3. Values nest at most 10,000 deep; here as deep as Python's stack allows, some 900.
4. Keys of a struct match whatever their case, also by U+017F (ſ) for s and U+212A (K) for k; of
   two that match, the last one counts.
5. All else is as in RFC 8259: no NaN, no raw control characters in strings, no byte order mark.

Whatever pydantic's parser reads needs none of this: it is tried first, as it is much faster, and
again when rule 1 has been applied to the data.
"""

import codecs
import json
import math
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import re2  # type: ignore[import-untyped]
from pydantic_core import from_json


def compile_bytes(pattern: bytes) -> Any:
    """Return a pattern of RE2, which lets other threads run meanwhile. It would take UTF-8."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.dot_nl = True
    return re2.compile(pattern, options)


SMALL_BYTES = 2**16
"""To parse so much takes some milliseconds and a megabyte, whatever it is."""

LENIENT_BYTES = 2**22
"""Up to here data is read by Python's own parser, which takes ten times as long."""

STRIPPED_BYTES = 2**22
"""Up to here strings are taken out to count what is not in them; 4 MiB take some 20 ms."""

SLICE_BYTES = 2**20
MAX_VALUES = 100_000
"""How many values may be parsed at once: a list takes 0.3 µs, in which nothing else runs."""

COSTS = {b"{": 190, b"[": 64, b",": 30, b":": 40}
"""About the bytes of memory that each of these stands for, once it is parsed."""

MAX_COST = 7
"""How many bytes of memory a byte may cost."""

MODEST_BYTES, MODEST_COST = 2**18, 20
"""How many they may be up to this size: agents send many short messages."""

MAX_TEXT_BYTES = 2**22
"""How much may be in strings that have characters beyond ASCII: Python's text takes up to four
bytes for each of theirs, and the time is that of the memory."""

MAX_TEXTS = 50_000
"""How many such strings there may be: to find one takes some microseconds."""

MAX_HALVES = 100_000
MAX_GROWTH = 1.5
"""How many times longer data may become when what is no UTF-8 is replaced."""

ASCII_TEXTS = compile_bytes(rb'(?:[^"]|"(?:[^"\\\x80-\xff]|\\[^u])*")*')
TEXT = compile_bytes(rb'"(?:[^"\\]|\\.)*"?')
MAX_LONG_DIGITS = 2**17
LONG_NUMBER = compile_bytes(rb"[0-9]{100,}")
WHOLE_PAIRS = compile_bytes(
    rb"(?:[^\\]|\\[^u]|\\u[^dD]|\\u[dD][0-7]"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*"
)
"""JSON up to the first half of a surrogate pair."""

HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


class TooCostlyError(ValueError):
    """To read the data would take long, or many times its size."""


def is_costly(data: bytes, max_values: int = MAX_VALUES) -> bool:
    """Return whether to parse the data would take long, or many times its size.

    What is in strings does not count, as far as that can be told cheaply.
    """
    if len(data) <= SMALL_BYTES:
        return False
    if has_long_numbers(data) or grows_in_the_log(data):
        return True
    return has_many_values(data, max_values) or has_long_texts(data)


def has_many_values(data: bytes, max_values: int) -> bool:
    """Return whether there are too many values to be parsed, or such that take too much memory."""
    max_cost = MODEST_COST if len(data) <= MODEST_BYTES else MAX_COST
    if not exceeds(data, len(data) * max_cost, max_values):
        return False
    strings = (data.count(b'"') - data.count(b'\\"')) // 2
    if len(data) > STRIPPED_BYTES or strings > min(max_values // 2, len(data) // 40):
        return True
    return exceeds(STRING.sub(b"", data), len(data) * max_cost, max_values)


def has_long_numbers(data: bytes) -> bool:
    """Return whether many digits are in numbers of a hundred and more: to read one, and to write
    it, takes a time that grows with their square."""
    if count_long_digits(data) <= MAX_LONG_DIGITS:
        return False
    return len(data) > STRIPPED_BYTES or count_long_digits(STRING.sub(b"", data)) > MAX_LONG_DIGITS


def count_long_digits(data: bytes) -> int:
    """Return how many digits are in runs of a hundred and more, if that is no more than allowed."""
    digits = 0
    for match in LONG_NUMBER.finditer(data):
        digits += match.end() - match.start()
        if digits > MAX_LONG_DIGITS:
            break
    return digits


def has_long_texts(data: bytes) -> bool:
    """Return whether too much is in strings that have characters beyond ASCII."""
    if len(data) <= MAX_TEXT_BYTES:
        return False
    length = position = 0
    for _ in range(MAX_TEXTS):
        start = ASCII_TEXTS.match(data, position).end()
        if start == len(data):
            return False
        position = TEXT.match(data, start).end()
        length += position - start
        if length > MAX_TEXT_BYTES:
            return True
    return True


def grows_in_the_log(data: bytes) -> bool:
    """Return whether much of the data are the characters of three bytes or two that the log writes
    with six, as Python ends a line at them (`log.entry`)."""
    most = len(data) // 32
    if count(data, b"\xe2\x80", b"\xc2\x85") <= most:
        return False
    return count(data, b"\xe2\x80\xa8", b"\xe2\x80\xa9", b"\xc2\x85") > most


def count(data: bytes, *needles: bytes) -> int:
    """Return about how often these are in the data; other threads run between two slices."""
    slices = (data[start : start + SLICE_BYTES] for start in range(0, len(data), SLICE_BYTES))
    return sum(each.count(needle) for each in slices for needle in needles)


def exceeds(data: bytes, max_cost: int, max_values: int) -> bool:
    """Return whether data has too many values, or such that take too much memory."""
    counts = {character: data.count(character) for character in COSTS}
    cost = sum(COSTS[character] * count for character, count in counts.items())
    return sum(counts.values()) > max_values or cost > max_cost


def refuse_constant(name: str) -> None:
    """Refuse NaN and the infinities, which Python's parser accepts."""
    raise ValueError(f"{name} is no JSON")


def parse_leniently(data: bytes, *, first_only: bool = False) -> Any:
    """Return the JSON value that the data is, or the first one in it.

    Raises:
        ValueError: there is none, or it is too long to be read in this way.
    """
    repaired = replace_halves(join_slowly_growing(repair_utf8(data), len(data), MAX_GROWTH))
    try:
        return from_json(repaired, allow_inf_nan=False, cache_strings="none")
    except ValueError:
        if len(data) > LENIENT_BYTES:
            raise
    text = repaired.decode().lstrip(" \t\n\r")
    try:
        value, end = LENIENT.raw_decode(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    if not first_only and text[end:].strip(" \t\n\r"):
        raise ValueError("something follows it")
    return value


def repair_utf8(data: bytes) -> Iterator[bytes]:
    """Yield the data in pieces of UTF-8, with U+FFFD for what is none."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for start in range(0, len(data), SLICE_BYTES):
        is_last = start + SLICE_BYTES >= len(data)
        yield decoder.decode(data[start : start + SLICE_BYTES], is_last).encode()


def join_slowly_growing(pieces: Iterable[bytes], size: int, max_growth: float) -> bytes:
    """Return the pieces that large data of this size became; raise TooCostlyError if they grow."""
    joined = bytearray()
    for piece in pieces:
        joined += piece
        if size > MODEST_BYTES and len(joined) > size * max_growth:
            raise TooCostlyError("most of it is no text in UTF-8")
    return bytes(joined)


def replace_halves(data: bytes) -> bytes:
    """Return JSON with U+FFFD for each half of a surrogate pair; raise TooCostlyError at many."""
    if b"\\u" not in data:
        return data
    replaced = bytearray(data)
    position = WHOLE_PAIRS.match(data).end()
    for _ in range(MAX_HALVES):
        if not HALF.match(data, position):
            return bytes(replaced)
        replaced[position : position + 6] = b"\\ufffd"
        position = WHOLE_PAIRS.match(data, position + 6).end()
    raise TooCostlyError("it has too many halves of surrogate pairs")


def parse_integer(text: str) -> int | str:
    """Return the number; its text where Python refuses to read so many digits."""
    try:
        return int(text)
    except ValueError:
        return text


LENIENT = json.JSONDecoder(parse_constant=refuse_constant, parse_int=parse_integer)


def fold_keys(value: dict[str, Any]) -> dict[str, Any]:
    """Return the object with its own keys in lower case, as a struct matches them."""
    return {key.lower().replace("ſ", "s"): each for key, each in value.items()}


def parse_exactly(text: str) -> Any:
    """Return the JSON value if it says all that the text says.

    Raises:
        ValueError: it is no JSON, a number is too large or too long for a float, or a key is there
            twice.
    """
    try:
        return EXACT.decode(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def parse_exact_float(text: str) -> float:
    """Return the number; raise ValueError if a float cannot hold it."""
    number = float(text)
    if not math.isfinite(number) or Decimal(text) != Decimal(repr(number)):
        raise ValueError(f"{text} is too long for a float")
    return number


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; raise ValueError if one of its keys is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


EXACT = json.JSONDecoder(
    object_pairs_hook=unique_keys,
    parse_float=parse_exact_float,
    parse_constant=refuse_constant,
)
