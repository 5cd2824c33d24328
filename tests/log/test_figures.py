"""The figures of the log, by the process that computes them, asked as the service asks it."""

import json
import random
import statistics
import sys
from pathlib import Path

import pytest

from log.figures import SAMPLE, Percentiles
from log.reader import BLOCK
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
    speeds = [90 / (n / 2) * 1000 for n in range(3, 600, 3) if n % 4 < 2]
    assert model["entries"] == len(speeds) + 1 and model["response_tokens"] == 90 * 100
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
    assert len(starts) == 41 and starts == sorted(starts), "those without entries are there too"
    assert sum(bucket["ok"] for bucket in got["buckets"]) == 11


def test_figures_that_last_say_how_far_they_are(tmp_path: Path) -> None:
    write(tmp_path, *(entry(str(number), prompt="x" * BLOCK) for number in range(20)))
    code = "import log.figures, log.worker; log.figures.PROGRESS_SECONDS = 0; log.worker.main()"
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
