"""The figures of the log, by the process that computes them, asked as the service asks it."""

import json
import random
import statistics
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from log.figures import SAMPLE, Percentiles, compute_figures
from log.filter import Filter
from log.reader import BLOCK, LogReader
from tests.log.test_reader import DAY, entry, figures, read_to_end, reading, write


def test_the_figures_are_those_of_the_entries(tmp_path: Path) -> None:
    entries = [
        entry(
            str(number),
            finished_at=f"{DAY}T{number // 60:02}:{number % 60:02}:00.000000Z",
            status=("ok", "ok", "error", "cancelled")[number % 4],
            duration_ms=float(number),
            ttft_ms=number / 2,
            model=f"model {number % 3}",
            prompt="p" * 300,
        )
        for number in range(600)
    ]
    write(tmp_path, *entries, b"{}\n", b'{"finished_at": 7}\n')
    got = figures(tmp_path)
    assert got["since"] == entries[0]["finished_at"] and got["until"] == entries[-1]["finished_at"]
    assert got["entries"] == 600 and got["bucket_seconds"] == 300
    assert len(got["buckets"]) == 120
    bucket = got["buckets"][1]  # five minutes: the entries 5 to 9
    assert bucket["start"] == f"{DAY}T00:05:00Z"
    assert (bucket["ok"], bucket["error"], bucket["cancelled"]) == (3, 1, 1)
    assert bucket["ttft_ms"]["p50"] == 3.5
    assert bucket["duration_ms"]["p50"] == 8  # of 5, 8 and 9: whole answers only
    (model,) = [model for model in got["models"] if model["model"] == "model 0"]
    speeds = [89 / (n / 2) * 1000 for n in range(3, 600, 3) if n % 4 < 2 and n / 2 > 20]
    assert model["entries"] == 100 and model["response_tokens"] == 90 * 100
    assert model["tokens_per_second"]["p50"] == pytest.approx(statistics.median(speeds), rel=0.01)
    assert [slow["id"] for slow in got["slowest"]] == [str(n) for n in range(599, 589, -1)]
    assert got["slowest"][0]["prompt"] == "p" * 200
    assert figures(tmp_path, exact={"status": "error"})["entries"] == 150


def test_the_figures_of_a_decade_have_few_buckets(tmp_path: Path) -> None:
    for year in range(2016, 2027):
        day = f"{year}-01-01"
        write(tmp_path, entry("a", finished_at=f"{day}T00:00:00.000000Z"), day=day)
    got = figures(tmp_path)
    assert got["entries"] == 11
    starts = [bucket["start"] for bucket in got["buckets"]]
    assert len(starts) == 44 and starts == sorted(starts), "those without entries are there too"
    assert sum(bucket["ok"] for bucket in got["buckets"]) == 11


@pytest.mark.parametrize("odd", ["empty file", "blank lines", "long line", "torn line", "folder"])
@pytest.mark.parametrize("day", ["2026-11-20", "2026-11-30"])
def test_an_odd_first_or_last_file_changes_nothing(tmp_path: Path, odd: str, day: str) -> None:
    """The service makes an empty file at a start without a request; a picture is a long line."""
    times = [f"{DAY}T{hour:02}:00:00.000000Z" for hour in range(24)]
    write(tmp_path, *(entry(time, finished_at=time) for time in times))
    before = figures(tmp_path)
    assert (before["since"], before["until"]) == (times[0], times[-1])
    assert len(before["buckets"]) > 20
    long = entry("a", finished_at=f"{DAY}T12:30:00.000000Z", prompt="x" * 2 * BLOCK)
    if odd == "folder":
        (tmp_path / f"{day}.jsonl").mkdir()
    elif odd == "long line":
        path = write(tmp_path)
        path.write_bytes(json.dumps(long).encode() + b"\n" + path.read_bytes())
    else:
        content = {"empty file": b"", "blank lines": b"\n\r\n \n", "torn line": b'{"id":"x","fin'}
        write(tmp_path, content[odd], day=day)
    after = figures(tmp_path)
    assert after["entries"] == 24 + (odd == "long line")
    for key in ("since", "until", "bucket_seconds"):
        assert after[key] == before[key]
    assert len(after["buckets"]) == len(before["buckets"])


def test_late_lines_are_counted_where_they_belong(tmp_path: Path) -> None:
    hours = [12, 3, 23, 0, 11, 1]
    times = [f"{DAY}T{hour:02}:00:00.000000Z" for hour in hours]
    write(tmp_path, *(entry(time, finished_at=time) for time in times))
    got = figures(tmp_path)
    assert (got["since"], got["until"]) == (min(times), max(times))
    filled = {bucket["start"][11:13] for bucket in got["buckets"] if bucket["ok"]}
    assert filled == {f"{hour:02}" for hour in hours}


def test_loads_and_unloads_are_no_answers(tmp_path: Path) -> None:
    write(tmp_path, entry("a"), entry("b", finish_reason="load", duration_ms=1e9))
    write(tmp_path, entry("c", finish_reason="unload", response=""))
    got = figures(tmp_path)
    assert got["entries"] == 1 and [slow["id"] for slow in got["slowest"]] == ["a"]


def test_names_of_models_without_end_take_little_memory(tmp_path: Path) -> None:
    """Any client can name a model as it likes."""
    write(tmp_path, *(entry("a", model=f"{n} {'x' * 1000}") for n in range(2000)))
    write(tmp_path, *(entry("b", model="tinyllama") for n in range(20)))
    write(tmp_path, *(entry("c", model=f"new {n}") for n in range(100)))
    models = figures(tmp_path)["models"]
    assert len(models) == 50 and models[0]["model"] == "other"
    assert models[1] == {**models[1], "model": "tinyllama", "entries": 20}
    assert max(len(model["model"]) for model in models) <= 200
    assert sum(model["entries"] for model in models) <= 2120


def test_merged_percentiles_are_those_of_all_values() -> None:
    few, many = Percentiles(), Percentiles()
    for value in range(SAMPLE // 2):
        few.add(1)
    for value in range(3 * SAMPLE):
        many.add(2)
    few.merge(many)
    assert len(few._values) == SAMPLE
    assert few._values.count(1) == pytest.approx(SAMPLE / 7, abs=1)
    got = few.figures()
    assert got and got["p50"] == 2
    few.add(3)  # and it goes on


def test_figures_that_last_say_how_far_they_are(tmp_path: Path) -> None:
    write(tmp_path, *(entry(str(number), prompt="x" * BLOCK) for number in range(20)))
    code = "import log.progress, log.worker; log.progress.PROGRESS_SECONDS = 0; log.worker.main()"
    with reading(tmp_path, "figures", [sys.executable, "-c", code]) as process:
        *progress, last = map(json.loads, read_to_end(process).splitlines())
    shares = [line["progress"] for line in progress]
    assert len(shares) == 20 and shares == sorted(shares) and (shares[9], shares[-1]) == (0.5, 1)
    assert last["entries"] == 20


def test_the_figures_of_odd_entries(tmp_path: Path) -> None:
    """Half a surrogate pair as a model's name, no text kept, and moments of another time."""
    write(tmp_path, entry("a"), entry("b", model="\ud800", prompt=None, prompt_chars=7))
    write(tmp_path, *(entry("c", finished_at=f"{year}-01-01T00:00:00Z") for year in ("0001", 9999)))
    for number in ("NaN", "1e999", "9" * 400, '"7"'):
        line = json.dumps(entry("none of ours", duration_ms=77777)).replace("77777", number)
        write(tmp_path, line.encode() + b"\n")
    write(tmp_path, entry("d", response_tokens=10**400))
    got = figures(tmp_path)
    assert [model["model"] for model in got["models"]] == ["tinyllama", "\ud800"]
    (bucket,) = got["buckets"]
    assert bucket["ok"] == got["entries"] == 5
    (b,) = [slow for slow in got["slowest"] if slow["id"] == "b"]
    assert (b["prompt"], b["prompt_chars"]) == (None, 7)


def test_percentiles_of_many_values_are_close_and_take_little_memory() -> None:
    percentiles = Percentiles()
    values = list(range(20 * SAMPLE))
    random.Random(1).shuffle(values)
    for value in values:
        percentiles.add(value)
    got = percentiles.figures()
    assert got and len(percentiles._values) == SAMPLE
    for name, share in {"p50": 0.5, "p95": 0.95, "p99": 0.99}.items():
        assert got[name] / len(values) == pytest.approx(share, abs=0.03)


def in_zone(folder: Path, tz: str) -> dict[str, Any]:
    """Return the figures by the clock of a time zone."""
    return compute_figures(LogReader(folder, Filter()).find(), ZoneInfo(tz))


@pytest.mark.parametrize("tz", ["America/Los_Angeles", "Asia/Kolkata", "Europe/Berlin", "UTC"])
@pytest.mark.parametrize("days", [1, 5, 60, 100])
def test_periods_begin_when_a_clock_in_the_zone_says_so(tmp_path: Path, tz: str, days: int) -> None:
    """Over a change of the clocks in spring and in autumn."""
    zone = ZoneInfo(tz)
    counted: Counter[str] = Counter()
    for begin in (datetime(2026, 3, 6, tzinfo=UTC), datetime(2026, 10, 23, tzinfo=UTC)):
        folder = tmp_path / str(begin.month)
        counted.clear()
        for hour in range(24 * days):
            moment = begin + timedelta(hours=hour, minutes=30)
            stamp = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
            write(folder, entry(str(hour), finished_at=stamp, prompt_tokens=2), day=stamp[:10])
            counted[str(moment.astimezone(zone).date())] += 1
        got = in_zone(folder, tz)
        starts = [datetime.fromisoformat(bucket["start"]) for bucket in got["buckets"]]
        assert starts == sorted(set(starts))
        width = got["bucket_seconds"]
        for start in starts:
            local = start.astimezone(zone)
            shown = (local.hour * 60 + local.minute) * 60 + local.second
            skipped = (local - timedelta(hours=2)).utcoffset() != local.utcoffset()
            assert shown % width == 0 or skipped
        assert sum(bucket["ok"] for bucket in got["buckets"]) == 24 * days
        assert sum(bucket["prompt_tokens"] for bucket in got["buckets"]) == 48 * days
        by_day = {day["day"]: day["entries"] for day in got["days"]}
        assert by_day == dict(counted)
        if width == 86_400:
            shown_by_day = {
                str(start.astimezone(zone).date()): bucket["ok"]
                for start, bucket in zip(starts, got["buckets"], strict=True)
            }
            assert shown_by_day == by_day


def test_tokens_are_those_of_each_day_model_and_client(tmp_path: Path) -> None:
    write(
        tmp_path,
        entry("a", prompt_tokens=1, model="llama3.2", user_agent="OpenAI/Python 3.57.0"),
        entry(
            "b", prompt_tokens=2, model="llama3.2:latest", user_agent="OpenAI/Python 4", load_ms=9.0
        ),
        entry("c", prompt_tokens="many", response_tokens=None, user_agent="curl/8.14.1"),
        entry("d", prompt_tokens=100, status="error"),
        entry("e", prompt_tokens=8, model="qwen3", user_agent=None),
        entry("f", prompt_tokens=16, model="qwen3", user_agent=5, finish_reason="load"),
    )
    got = figures(tmp_path)
    counts = ("entries", "prompt_tokens", "response_tokens")
    models = {model["model"]: [model[key] for key in counts] for model in got["models"]}
    assert models == {"llama3.2:latest": [2, 3, 180], "tinyllama": [1, 0, 0], "qwen3": [1, 8, 90]}
    by_model = {(day["day"], day["model"]): [day[key] for key in counts] for day in got["days"]}
    assert by_model == {(DAY, name): values for name, values in models.items()}
    clients = {client["client"]: [client[key] for key in counts] for client in got["clients"]}
    assert clients == {"OpenAI/Python": [2, 3, 180], "curl": [1, 0, 0], None: [1, 8, 90]}
    loads = {model["model"]: model["load_ms"] for model in got["models"]}
    assert loads["llama3.2:latest"]["p50"] == 9 and loads["qwen3"] is None
    (bucket,) = got["buckets"]
    assert (bucket["prompt_tokens"], bucket["response_tokens"]) == (11, 270)


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
@pytest.mark.parametrize("tz", ["UTC", "Asia/Kolkata", "America/Los_Angeles"])
def test_a_file_of_the_first_or_last_day_fails_nothing(tmp_path: Path, day: str, tz: str) -> None:
    write(tmp_path, entry("a", finished_at=f"{day}T12:00:00.000000Z"), day=day)
    write(tmp_path, entry("b"), entry("c"))
    got = in_zone(tmp_path, tz)
    assert got["entries"] >= 2 and sum(bucket["ok"] for bucket in got["buckets"]) >= 2


def test_numbers_that_cannot_be_true_count_for_nothing(tmp_path: Path) -> None:
    odd = {"response_tokens": 1e308, "ttft_ms": -1.7e308, "duration_ms": 1.7e308, "load_ms": 1e300}
    write(tmp_path, entry("a", **odd), entry("b", **odd, response_ms=1e-300), entry("c"))
    got = figures(tmp_path)
    assert "Infinity" not in json.dumps(got) and "NaN" not in json.dumps(got)
    assert got["models"][0]["response_tokens"] == 90
