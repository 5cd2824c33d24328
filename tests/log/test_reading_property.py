"""Searches, cursors and figures against a plain reading of every line."""

import json
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from log import reader
from log.figures import NOT_AN_ENTRY, Figures
from log.filter import Filter
from log.reader import Cursor, FoundEntry, LogReader
from tests.log.test_reader import entry, write

START = datetime(2026, 11, 20, 6, tzinfo=UTC)
WORDS = {
    **{"sky": 0, "blue": 1, "Straße": 2, "STRASSE": 2, "café": 3, "cafe\u0301": 3, "😀": 4},
    **{'say "hi"': 5, "new\nline": 6, "C:\\path": 7},
}
"""Words, and which of them are the same to who searches."""
LOOKED_FOR = {**WORDS, **{word.upper(): number for word, number in WORDS.items()}}
ODD_LINES = [b"\n", b" \r\n", b'{"id":"torn","fin\n', b"[1]\n", b"\xff\n"]
FILES = 10_000
"""How many files are read, over all seeds."""

SEEDS, LOGS = 20, 150  # of four files each


def seeds(count: int, quick: int = 5) -> list[Any]:
    """Return seeds, of which most are for a run of all tests that take long."""
    marks = pytest.mark.long
    return [pytest.param(n, marks=marks) if n >= quick else n for n in range(count)]


def timestamp(moment: datetime) -> str:
    """Return a timestamp of the log."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


class Writer:
    """Writes entries by a clock that goes on, and now and then jumps."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder, self.rng = folder, rng
        self.clock = START
        self.count = 0

    def write_some(self, count: int) -> None:
        """Append entries, some of them late, and some lines that are none."""
        for _ in range(count):
            rng = self.rng
            self.clock += timedelta(seconds=rng.choice([0, 1, 60, 3600]))
            if rng.random() < 0.1:
                self.clock += timedelta(hours=rng.randint(-40, 40))
            self.count += 1
            words = rng.choices(list(WORDS), k=3)
            line = entry(
                str(self.count),
                finished_at=timestamp(self.clock),
                status=rng.choice(["ok", "ok", "error", "cancelled"]),
                prompt=" ".join(words) + "x" * rng.choice([0, 10, 700]),
                words=[WORDS[word] for word in words],
                model=rng.choice(["tinyllama", "llama3.2"]),
                duration_ms=rng.random() * 1000,
            )
            day = line["finished_at"][:10]
            write(self.folder, line, day=day)
            if rng.random() < 0.1:
                write(self.folder, rng.choice(ODD_LINES), day=day)
            if rng.random() < 0.05:  # an object that is none of ours
                self.count += 1
                write(self.folder, {"id": str(self.count), "b": 1}, day=day)


def plain(folder: Path, wanted: Filter) -> Iterator[dict[str, Any]]:
    """Read every line, and yield the entries that are wanted, newest first."""
    for path in sorted(folder.glob("????-??-??.jsonl"), reverse=True):
        for line in reversed(path.read_bytes().split(b"\n")):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict) and is_wanted(found, wanted):
                yield found


def is_wanted(found: dict[str, Any], wanted: Filter) -> bool:
    """Return whether a filter wants an entry, in the plainest way."""
    finished_at = found.get("finished_at", "")
    return (
        all(found.get(key) == value for key, value in wanted.exact.items())
        and (not wanted.since or finished_at >= wanted.since)
        and (not wanted.until or (finished_at and finished_at < wanted.until))
        and all(LOOKED_FOR[word] in found.get("words", []) for word in looked_for(wanted.q))
    )


def looked_for(q: str) -> list[str]:
    """Return the words in a search."""
    return re.findall(r'"([^"]+)"', q) or q.split() if " " in q else [q] * bool(q)


def draw_search(rng: random.Random) -> str:
    """Return nothing, a word, several of them, or several in quotes."""
    simple = [word for word in LOOKED_FOR if not re.search(r'[\s"]', word)]
    quotable = [word for word in LOOKED_FOR if '"' not in word]
    match rng.randrange(5):
        case 0 | 1:
            return rng.choice(simple)
        case 2:
            return " ".join(rng.sample(simple, 2))
        case 3:
            return " ".join(f'"{word}"' for word in rng.sample(quotable, 2))
    return ""


def draw_filter(rng: random.Random) -> Filter:
    """Return what somebody may look for."""
    moments = sorted(timestamp(START + timedelta(hours=rng.uniform(-50, 100))) for _ in range(2))
    return Filter(
        q=draw_search(rng),
        exact={"status": "ok"} if rng.random() < 0.3 else {},
        since=moments[0] if rng.random() < 0.5 else None,
        until=moments[1] if rng.random() < 0.5 else None,
    )


def read(folder: Path, wanted: Filter, before: Cursor | None = None) -> Iterator[FoundEntry]:
    """Yield what is found."""
    return LogReader(folder, wanted, before).find()


def ids(found: Iterator[dict[str, Any]]) -> list[str]:
    """Return which entries were found."""
    return [each["id"] for each in found]


@pytest.mark.parametrize("seed", seeds(SEEDS))
def test_searches_pages_and_figures_are_those_of_a_plain_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    files = 0
    for number in range(LOGS):
        monkeypatch.setattr(reader, "BLOCK", rng.choice([64, 333, 4096, 1 << 17]))
        folder = tmp_path / str(number)
        writer = Writer(folder, rng)
        writer.write_some(rng.randint(1, 40))
        files += len(list(folder.iterdir()))
        wanted = draw_filter(rng)
        expected = list(plain(folder, wanted))
        assert ids(found.entry for found in read(folder, wanted)) == ids(iter(expected))
        check_figures(folder, wanted, expected)
        check_pages(folder, wanted, writer, ids(iter(expected)))
    assert files > FILES / SEEDS / 2


def check_figures(folder: Path, wanted: Filter, expected: list[dict[str, Any]]) -> None:
    """Compare the figures with the entries."""
    figures = Figures()
    for found in read(folder, wanted):
        try:
            figures.add(found.entry, found.day)
        except NOT_AN_ENTRY:
            continue
    got = figures.figures()
    whole = [each for each in expected if "finished_at" in each]
    assert got["entries"] == len(whole)
    for status in ("ok", "error", "cancelled"):
        count = sum(each["status"] == status for each in whole)
        assert sum(bucket[status] for bucket in got["buckets"]) == count
    assert len(got["buckets"]) <= 120
    if whole:
        times = [each["finished_at"] for each in whole]
        assert (got["since"], got["until"]) == (min(times), max(times))
        for bucket in got["buckets"]:
            start = datetime.fromisoformat(bucket["start"])
            end = timestamp(start + timedelta(seconds=got["bucket_seconds"]))
            within = [each for each in whole if timestamp(start) <= each["finished_at"] < end]
            assert bucket["ok"] == sum(each["status"] == "ok" for each in within)
    slowest = sorted((each["duration_ms"] for each in whole), reverse=True)[:10]
    assert [slow["duration_ms"] for slow in got["slowest"]] == slowest


def check_pages(folder: Path, wanted: Filter, writer: Writer, expected: list[str]) -> None:
    """Go from page to page while entries are appended and a file is renamed."""
    rng = writer.rng
    written = writer.count
    seen: list[str] = []
    cursor: Cursor | None = None
    is_renamed = False
    while True:
        found = list(islice(read(folder, wanted, cursor), rng.randint(1, 5)))
        seen += [each.entry["id"] for each in found]
        if not found:
            break
        cursor = Cursor.parse(str(Cursor.of(found[-1])))
        writer.clock = max(writer.clock, START + timedelta(days=60))  # newer than all
        writer.write_some(rng.choice([0, 0, 3]))
        if rng.random() < 0.1:
            path = rng.choice(sorted(folder.glob("*.jsonl")))
            path.rename(path.with_suffix(f".{rng.random()}"))
            is_renamed = True
    old = [id for id in seen if int(id) <= written]
    assert old == seen, "what is newer than the first page is on none"
    if is_renamed:  # what was in the file is not found any more, and nothing else is missing
        assert old == [id for id in expected if id in set(old)]
    else:
        assert old == expected
