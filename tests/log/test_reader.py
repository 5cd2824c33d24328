"""The reading process, asked as the service asks it: a job on its input, the answer back."""

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from log.filter import Filter, compile_json_pattern, contains_folded, fold
from log.processes import COMMAND, ROOT
from log.reader import BLOCK, MAX_LINE, LogReader

DAY = "2026-11-24"
TROUBLESOME = 'aAsSßẞſkKKfiﬁﬀﬃtŉİıïÄäжЖσςΣ你😀𐐀𐐨"\\/\n\t\x00\x1f\x7f\u2028 '
TROUBLESOME += "\u0301\u0302\u0323\u0308\u212b\u1ea5\u00ea\u0958\u0915\u093c"
TROUBLESOME += "\uac01\u1100\u1161\u11a8"


def entry(id: str, **changes: Any) -> dict[str, Any]:
    """Return an entry of the log."""
    return {
        "id": id,
        "finished_at": f"{DAY}T12:00:00.000000Z",
        "duration_ms": 1000.0,
        "endpoint": "/generate",
        "model": "tinyllama",
        "status": "ok",
        "prompt": "Why?",
        "system": None,
        "response": "Because.",
        "ttft_ms": 100.0,
        "response_tokens": 90,
    } | changes


def write(folder: Path, *entries: dict[str, Any] | bytes, day: str = DAY) -> Path:
    """Append the entries, or bytes as they are, to the day's file."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{day}.jsonl"
    with path.open("ab") as file:
        for one in entries:
            file.write(one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n")
    return path


@contextmanager
def reading(
    folder: Path, kind: str = "lines", command: list[str] = COMMAND, **job: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Have a process do a job."""
    keys = {key: job.pop(key) for key in ("limit", "before") if key in job}
    job = {"kind": kind, "directory": str(folder), "filter": job, **keys}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT
    ) as process:
        assert process.stdin
        process.stdin.write(json.dumps(job).encode() + b"\n")
        try:
            yield process
        finally:
            process.kill()


def read_to_end(process: subprocess.Popen[bytes]) -> bytes:
    """Return the answer, which has to be whole."""
    assert process.stdout and process.stderr
    data = process.stdout.read()
    assert process.wait() == 0, process.stderr.read().decode()
    return data


def read_with_peak(folder: Path, kind: str, **job: Any) -> tuple[bytes, int]:
    """Return the answer, and the most bytes of memory that the process had."""
    peak, pieces = 0, []
    with reading(folder, kind, **job) as process:
        assert process.stdout
        while piece := os.read(process.stdout.fileno(), 1 << 20):
            pieces.append(piece)
            with suppress(OSError, IndexError):  # it has ended meanwhile
                status = Path(f"/proc/{process.pid}/status").read_text()
                peak = int(status.partition("VmHWM:")[2].split()[0]) << 10
    return b"".join(pieces), peak


def find(folder: Path, **job: Any) -> list[str]:
    """Return the ids of what a search finds."""
    with reading(folder, **job) as process:
        return [json.loads(line)["id"] for line in read_to_end(process).splitlines()]


def page(folder: Path, **job: Any) -> tuple[list[str], str | None]:
    """Return the ids on a page, and the cursor to the next."""
    with reading(folder, "page", **job) as process:
        body = json.loads(read_to_end(process))
    return [found["id"] for found in body["entries"]], body["next"]


def figures(folder: Path, **job: Any) -> Any:
    """Return the figures."""
    with reading(folder, "figures", **job) as process:
        return json.loads(read_to_end(process).splitlines()[-1])


def test_entries_of_every_length_come_newest_first(tmp_path: Path) -> None:
    """Lines that end before, at and behind a block's edge, and go over several blocks."""
    lengths = [1, BLOCK - 1, 5, BLOCK, 3 * BLOCK, 7, BLOCK // 2, BLOCK + 1] * 2
    lengths += [random.Random(1).randrange(BLOCK // 3) for _ in range(30)]
    ids = [str(number) for number in range(len(lengths))]
    write(tmp_path, *(entry(id, prompt="x" * n) for id, n in zip(ids, lengths, strict=True)))
    write(tmp_path, entry("next day"), day="2026-11-25")
    write(tmp_path, entry("day before"), day="2026-11-23")
    assert find(tmp_path) == ["next day", *reversed(ids), "day before"]
    assert find(tmp_path, q="why?") == ["next day", "day before"]


@pytest.mark.parametrize("ensure_ascii", [True, False])
@pytest.mark.parametrize(
    ("text", "q"),
    [
        ("Grüße aus München", "GRÜSSE AUS mün"),
        ("STRASSE", "straße"),
        ('she said "hi"', 'said "HI"'),
        ("one\ntwo\tthree", "one\nTWO\tthree"),
        ("C:\\temp/x", "c:\\TEMP/X"),
        ("Привет, мир", "пРИВЕТ"),
        ("Ὀδυσσεύς", "ὈΔΥΣΣΕΎΣ"),
        ("a 😀 b", "😀"),
        ("你好", "你好"),
        ("x" * 300_000 + " needle at the end", "Needle"),
        ("cafe\u0301 \u00c5ngstr\u00f6m", "CAF\u00c9 \u212bngstro\u0308m"),
        ("\uac00\ub098", "\u1100\u1161\u1102\u1161"),
        ("\u1100\u1161\u1102\u1161", "\uac00\ub098"),
        ("a\u0302\u0323", "\u1ead"),
        (json.dumps({"city": "M\u00fcnchen", "say": '"hi"\n'}), 'm\u00fcnchen", "say": ""hi"\n'),
        (json.dumps(json.dumps("M\u00fcnchen\tund mehr")), "m\u00fcnchen\tund"),
    ],
)
def test_text_is_found_whatever_its_case_and_escapes(
    tmp_path: Path, text: str, q: str, ensure_ascii: bool
) -> None:
    for key, value in {
        "prompt": text,
        "system": text,
        "response": f"before {text} after",
        "thinking": text,
        "error": text,
        "request": {"messages": [{"content": text}]},
        "tool_calls": [{"function": {"arguments": {"where": text}}}],
    }.items():
        line = json.dumps(entry(key, **{key: value}), ensure_ascii=ensure_ascii)
        write(tmp_path, line.encode() + b"\n", entry("another"))
    searched = ["tool_calls", "request", "error", "thinking", "response", "system", "prompt"]
    assert find(tmp_path, q=q) == searched


def test_ascii_that_is_escaped_is_found(tmp_path: Path) -> None:
    write(tmp_path, json.dumps(entry("a", prompt="PLACE")).replace("LA", r"\u004c\u0041").encode())
    assert find(tmp_path, q="place") == ["a"]


def test_only_what_was_asked_and_answered_is_searched(tmp_path: Path) -> None:
    write(tmp_path, entry("a", user_agent="curl", client_request_id="their-own-7"))
    assert find(tmp_path, q="THEIR-own") == ["a"]
    assert find(tmp_path, q="duration_ms") == find(tmp_path, q="curl") == []


@given(st.text(TROUBLESOME, min_size=1, max_size=4), st.data(), st.booleans())
def test_the_raw_pattern_misses_nothing(q: str, data: st.DataObject, ensure_ascii: bool) -> None:
    """Whatever a parsed line holds, its raw bytes match; the same where JSON holds JSON."""
    cases = [q, q.upper(), q.lower(), q.casefold(), q.title()]
    text = data.draw(st.text(TROUBLESOME, max_size=3)) + data.draw(st.sampled_from(cases))
    line = json.dumps({"prompt": text}, ensure_ascii=ensure_ascii)
    nested = json.dumps({"request": line}, ensure_ascii=ensure_ascii)
    if contains_folded(text, fold(q)):
        assert compile_json_pattern(q).search(line.encode())
        assert compile_json_pattern(q).search(nested.encode())


def test_a_folded_text_is_found_across_pieces() -> None:
    for offset in range(-3, 3):
        assert contains_folded("x" * ((1 << 20) + offset) + "NEEDLE" + "y" * 100, "needle")


def test_exact_filters(tmp_path: Path) -> None:
    write(tmp_path, entry("a"), entry("b", status="error"), entry("c", model="llama"))
    write(tmp_path, entry("d", endpoint="/api/chat", model='odd "name"'))
    assert find(tmp_path, exact={"status": "error"}) == ["b"]
    assert find(tmp_path, exact={"model": "llama"}) == ["c"]
    assert find(tmp_path, exact={"model": "LLAMA"}) == []
    assert find(tmp_path, exact={"model": 'odd "name"', "endpoint": "/api/chat"}) == ["d"]
    assert find(tmp_path, exact={"model": 'odd "name"', "endpoint": "/stream"}) == []
    assert find(tmp_path, exact={"id": "c"}, limit=1) == ["c"]


def test_a_span_of_time(tmp_path: Path) -> None:
    for day in ("2026-11-23", "2026-11-24", "2026-11-25"):
        for hour in ("00", "12", "23"):
            finished_at = f"{day}T{hour}:00:00.000000Z"
            write(tmp_path, entry(f"{day[-2:]} {hour}", finished_at=finished_at), day=day)
    since, until = "2026-11-23T12:00:00.000000Z", "2026-11-25T00:00:00.000000Z"
    assert find(tmp_path, since=since, until=until) == ["24 23", "24 12", "24 00", "23 23", "23 12"]
    assert len(find(tmp_path, since=since)) == 8
    write(tmp_path, entry("undated", finished_at=None), day="2026-11-25")
    assert (
        len(find(tmp_path, since=since)) == 8
    ), "a page that looks for what is new is not to get it"
    assert len(find(tmp_path)) == 10
    assert len(find(tmp_path, until=until)) == 6


def test_a_late_line_hides_nothing(tmp_path: Path) -> None:
    """An entry that could not be written comes late; a clock may begin in the past."""

    def at(minute: int, size: int = 10) -> dict[str, Any]:
        return entry(str(minute), finished_at=f"{DAY}T12:{minute:02}:00.000000Z", prompt="x" * size)

    write(tmp_path, *(at(minute) for minute in range(20, 50)))
    write(tmp_path, at(5, 3 * BLOCK), *(at(minute) for minute in range(50, 55)), at(1))
    since, until = f"{DAY}T12:20:00.000000Z", f"{DAY}T12:50:00.000000Z"
    wanted = [str(minute) for minute in reversed(range(20, 55))]
    assert find(tmp_path, since=since) == wanted
    assert find(tmp_path, since=since, until=until) == wanted[5:]
    assert figures(tmp_path, since=since, until=until)["entries"] == 30


def test_blank_lines_cost_next_to_nothing(tmp_path: Path) -> None:
    """Each of a million lines was parsed twice."""
    write(tmp_path, entry("a"), b"\n" * 1_000_000, b" \r\n" * 1000, entry("b"))
    began = time.process_time()
    reader = LogReader(tmp_path, Filter())
    assert [found.entry["id"] for found in reader.find()] == ["b", "a"]
    blank = time.process_time() - began
    (tmp_path / f"{DAY}.jsonl").write_bytes(b'{"id": 7}\n' * 100_000)  # as many bytes, real lines
    began = time.process_time()
    assert len([1 for _ in LogReader(tmp_path, Filter()).find()]) == 100_000
    assert blank < time.process_time() - began


def test_what_is_no_entry_is_passed_over(tmp_path: Path) -> None:
    whole = json.dumps(entry("torn")).encode()
    write(tmp_path, whole[:40] + b"\n", entry("a"), b"\n\n", b"\x00\xff\xfe\n", b"[1]\n", b"7\n")
    write(tmp_path, b"{" * 5000 + b"\n", b"[" * 100_000 + b"\n", entry("b"), whole[:-1])
    assert find(tmp_path) == ["b", "a"]
    assert find(tmp_path, q="why") == ["b", "a"]
    write(tmp_path, b"\n", json.dumps(entry("lacks only its line end")).encode())
    assert find(tmp_path) == ["lacks only its line end", "b", "a"]


def test_what_only_python_takes_for_json_comes_as_json(tmp_path: Path) -> None:
    write(tmp_path, entry("a", options={"x": float("nan")}, prompt="half \ud83d of a pair"))
    write(
        tmp_path, json.dumps(entry("b", request=[7777])).replace("7777", "1e999, -1e999").encode()
    )
    with reading(tmp_path) as process:
        b, a = [
            json.loads(line, parse_constant=pytest.fail)
            for line in read_to_end(process).splitlines()
        ]
    assert a["options"] == {"x": "NaN"} and a["prompt"] == "half \ud83d of a pair"
    assert b["request"] == ["1e999", "-1e999"]


def test_an_entry_comes_as_it_stands(tmp_path: Path) -> None:
    line = b'{"id": "a",  "later_key": {"z": 1.50, "a": "\\u00fc"}}'
    write(tmp_path, line + b"\n")
    with reading(tmp_path) as process:
        assert read_to_end(process) == line + b"\n"


def test_a_cursor_stays_right_while_entries_come(tmp_path: Path) -> None:
    write(tmp_path, *(entry(str(number)) for number in range(25)))
    seen: list[str] = []
    ids, cursor = page(tmp_path, limit=10)
    while cursor:
        seen += ids
        write(tmp_path, *(entry("new") for _ in range(3)))
        write(tmp_path, entry("new too"), day="2026-11-25")
        ids, cursor = page(tmp_path, limit=10, before=cursor)
    assert seen + ids == [str(number) for number in reversed(range(25))]
    assert page(tmp_path, limit=30, before=f"{DAY}.0") == ([], None)


def test_a_cursor_means_before_this_entry_when_the_file_was_rotated(tmp_path: Path) -> None:
    path = write(tmp_path, *(entry(str(number)) for number in range(20)))
    write(tmp_path, entry("day before"), day="2026-11-23")
    _, cursor = page(tmp_path, limit=5)
    path.rename(tmp_path / "rotated")
    later = f"{DAY}T13:00:00.000000Z"
    write(tmp_path, *(entry(f"new {n}", finished_at=later) for n in range(50)))
    assert page(tmp_path, limit=50, before=cursor) == (["day before"], None)


def test_a_cursor_means_before_this_entry_when_lines_were_removed(tmp_path: Path) -> None:
    path = write(tmp_path, *(entry(str(number)) for number in range(20)))
    _, cursor = page(tmp_path, limit=5)  # 19 to 15
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[5:]))
    assert page(tmp_path, limit=50, before=cursor)[0] == [str(n) for n in reversed(range(5, 15))]
    path.write_bytes(b"".join(lines[5:14] + lines[16:]))  # the cursor's own is gone too
    assert page(tmp_path, limit=50, before=cursor)[0] == []  # as all were finished at one moment


def test_a_page_that_ends_with_the_oldest_entry_is_the_last(tmp_path: Path) -> None:
    write(tmp_path, entry("a"), entry("b"))
    assert page(tmp_path, limit=2) == (["b", "a"], None)
    assert page(tmp_path, limit=1)[1] is not None


@pytest.mark.parametrize(
    "offset", ["1", "100", "99999999999999", f"100.{DAY}T99~b", "7.~", "7.z~ü"]
)
def test_a_forged_cursor_finds_whole_entries_or_none(tmp_path: Path, offset: str) -> None:
    write(tmp_path, entry("a"), entry("b"))
    ids, _ = page(tmp_path, limit=10, before=f"{DAY}.{offset}")
    assert ids in ([], ["a"], ["b", "a"])


@pytest.mark.parametrize("accident", ["moved", "deleted", "truncated", "grown", "folder"])
def test_a_file_that_changes_under_a_search_breaks_nothing(tmp_path: Path, accident: str) -> None:
    folder = tmp_path / "logs"
    entries = [entry(str(number), prompt="x" * 1000) for number in range(3000)]
    path = write(folder, *entries)
    write(folder, entry("of the day before"), day="2026-11-23")
    with reading(folder) as process:
        assert process.stdout
        first = process.stdout.readline()  # the pipe is full now, and the process waits
        if accident == "moved":
            path.rename(tmp_path / "elsewhere")
        elif accident == "deleted":
            path.unlink()
        elif accident == "truncated":
            os.truncate(path, 5000)
        elif accident == "grown":
            write(folder, *entries)
        else:
            folder.rename(tmp_path / "elsewhere")
        found = [json.loads(line)["id"] for line in (first + read_to_end(process)).splitlines()]
    if accident == "folder":
        assert found == [str(number) for number in reversed(range(3000))]
    elif accident == "truncated":
        assert found[0] == "2999" and found[-1] == "of the day before"
        assert found[:-1] == sorted(found[:-1], key=int, reverse=True)
    else:
        ids = [str(number) for number in reversed(range(3000))]
        assert found == [*ids, "of the day before"]


def test_nothing_but_the_daily_files_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    outside = write(tmp_path / "outside", entry("secret"))
    write(folder, entry("a"))
    (folder / "2026-11-23.jsonl").symlink_to(outside)
    (folder / "2026-11-22.jsonl").mkdir()
    os.mkfifo(folder / "2026-11-21.jsonl")
    for name in (".key", "2026-11-20.jsonl.gz", "x2026-11-20.jsonl", "2026-11-20.jsonl\n"):
        (folder / name).write_bytes(outside.read_bytes())
    assert find(folder) == ["a"]
    assert page(folder, limit=5, before="2026-11-23.500") == ([], None)
    assert find(tmp_path / "not there") == []
    assert figures(tmp_path / "not there")["entries"] == 0


def test_a_line_of_64_mib_is_read_and_a_longer_one_found_by_its_id(tmp_path: Path) -> None:
    blank = len(json.dumps(entry("long", response="")))
    too_long = entry("too long", response="x" * (2 * MAX_LINE))
    write(tmp_path, entry("a"), too_long)
    write(tmp_path, entry("long", response="x" * (MAX_LINE - blank)), entry("b"))
    with reading(tmp_path) as process:
        lines = read_to_end(process).splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["b", "long", "a"]
    assert len(lines[1]) == MAX_LINE
    found, peak = read_with_peak(tmp_path, "lines", exact={"id": "too long"}, limit=1)
    assert found == json.dumps(too_long).encode() + b"\n" and peak < 2 * MAX_LINE
    assert find(tmp_path, exact={"id": "not there"}) == []


@pytest.mark.parametrize("kind", ["page", "lines"])
def test_of_long_lines_one_is_held_at_a_time(tmp_path: Path, kind: str) -> None:
    for id in ("a", "b"):
        write(tmp_path, entry(id, response="x" * (MAX_LINE - 1000)))
    _, peak = read_with_peak(tmp_path, kind, limit=2)
    assert 2 * MAX_LINE < peak < 4 * MAX_LINE


def test_the_process_goes_with_the_service(tmp_path: Path) -> None:
    write(tmp_path, entry("old", prompt="x" * 5 * BLOCK), entry("new", prompt="x" * BLOCK))
    with reading(tmp_path) as process:
        process.stdin.close()  # type: ignore[union-attr]
        assert b'"old"' not in read_to_end(process)


def test_an_id_says_on_which_day_it_is_looked_for_first(tmp_path: Path) -> None:
    """A UUIDv7 has the time at which the request began; the entry is of that day or the next."""
    id = "01930000-0000-7000-8000-000000000000"  # of 2024-11-06
    for day in ("2024-11-05", "2024-11-06", "2024-11-07", "2026-11-24", "2019-01-01"):
        write(tmp_path, entry("x"), day=day)
    write(tmp_path, b"{}\n", day="2026-13-45")
    reader = LogReader(tmp_path, Filter(exact={"id": id}))
    assert reader.days[:2] == ["2024-11-06", "2024-11-07"] and len(reader.days) == 6
    assert [*reader.find()] == []
    write(tmp_path, entry(id), day="2019-01-01")
    assert [found.day for found in LogReader(tmp_path, Filter(exact={"id": id})).find()] == [
        "2019-01-01"
    ]
    for other in ("an-id", "ffffffff-ffff-7000-8000-000000000000", id.replace("-7", "-4")):
        reader = LogReader(tmp_path, Filter(exact={"id": other}))
        assert reader.days == sorted(reader.days, reverse=True)
