"""Which files are removed as too old, and when, also where the clock is wrong."""

import logging
import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from log import retention
from log.retention import GRACE_SECONDS, LOOK_SECONDS, Retention, find_old_files

DAY = timedelta(days=1)
TODAY = date(2026, 11, 28)
KEPT_DAYS = 30


class Clock:
    """Stands for both of the system's clocks; each test moves them itself."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.step = timedelta()

    def monotonic(self) -> float:
        return self.seconds

    def now(self, tz: object) -> datetime:
        begin = datetime(TODAY.year, TODAY.month, TODAY.day, 12, tzinfo=UTC)
        return begin + timedelta(seconds=self.seconds - 1000) + self.step


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    clock = Clock()
    caplog.set_level(logging.INFO, "minivault")
    monkeypatch.setattr(retention, "time", clock)
    monkeypatch.setattr(retention, "datetime", clock)
    return clock


Wait = Callable[[float], None]


@pytest.fixture
def wait(tmp_path: Path, clock: Clock) -> Wait:
    """Let so many seconds pass, in which looks are taken as the log's thread takes them."""
    kept = Retention(tmp_path, KEPT_DAYS)

    def look_on(seconds: float) -> None:
        end = clock.seconds + seconds
        while clock.seconds <= end:
            kept.remove_old_files()
            clock.seconds += LOOK_SECONDS / 2

    return look_on


def write(directory: Path, *ages: int, text: str = "{}\n") -> None:
    for age in ages:
        (directory / f"{TODAY - age * DAY}.jsonl").write_text(text)


def ages(directory: Path) -> list[int]:
    return sorted((TODAY - date.fromisoformat(path.stem)).days for path in directory.iterdir())


def test_one_day_goes_at_the_second_look(tmp_path: Path, wait: Wait) -> None:
    write(tmp_path, *range(32))
    wait(LOOK_SECONDS / 2)
    assert ages(tmp_path) == [*range(32)]
    wait(2 * LOOK_SECONDS)
    assert ages(tmp_path) == [*range(31)]


def test_what_was_made_of_a_day_goes_with_it(tmp_path: Path, wait: Wait) -> None:
    write(tmp_path, *range(KEPT_DAYS + 2))
    for path in list(tmp_path.glob("*.jsonl")):
        path.with_suffix(".parquet").touch()
    wait(3 * LOOK_SECONDS)
    days = {path.stem for path in tmp_path.glob("*.jsonl")}
    assert len(days) == KEPT_DAYS + 1 and {path.stem for path in tmp_path.glob("*.parquet")} == days


def test_more_than_one_day_is_announced_an_hour_before(
    tmp_path: Path, wait: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, *range(40))
    wait(GRACE_SECONDS - LOOK_SECONDS)
    assert ages(tmp_path) == [*range(40)]
    (line,) = caplog.messages
    assert line.startswith("9 files of the log, 2026-10-20.jsonl to 2026-10-28.jsonl")
    assert "60 minutes" in line and "MINIVAULT_LOG_RETENTION_DAYS is 30" in line
    wait(2 * LOOK_SECONDS)
    assert ages(tmp_path) == [*range(31)]
    assert sum(line.startswith("removed ") for line in caplog.messages) == 9


def test_a_day_goes_after_each_midnight(tmp_path: Path, wait: Wait) -> None:
    write(tmp_path, *range(31))
    for day in range(1, 4):
        wait(24 * 3600)
        write(tmp_path, -day)
        wait(3 * LOOK_SECONDS)
        assert ages(tmp_path) == [*range(-day, 31 - day)]


@pytest.mark.parametrize("step", [31, 200, 20_000, -31, -200, -5000])
@pytest.mark.parametrize("writes", [False, True])
def test_a_clock_that_is_wrong_at_the_start_removes_nothing(
    tmp_path: Path, clock: Clock, wait: Wait, step: int, writes: bool
) -> None:
    write(tmp_path, *range(30))
    clock.step = step * DAY
    write(tmp_path, -step, text="{}\n" if writes else "")
    wait(3 * GRACE_SECONDS)
    clock.step = timedelta()
    wait(3 * GRACE_SECONDS)
    assert {*range(30)} <= {*ages(tmp_path)}


@pytest.mark.parametrize("step", [31, 200, -200])
def test_a_clock_that_steps_while_the_service_runs_removes_nothing(
    tmp_path: Path, clock: Clock, wait: Wait, step: int
) -> None:
    write(tmp_path, *range(31))
    wait(GRACE_SECONDS)
    for _ in range(3):
        clock.step = step * DAY
        write(tmp_path, -step)
        wait(GRACE_SECONDS)
        clock.step = timedelta()
        wait(GRACE_SECONDS)
    assert {*range(30)} <= {*ages(tmp_path)}


def test_a_step_within_the_retention_is_announced_and_taken_back(
    tmp_path: Path, clock: Clock, wait: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, *range(31))
    clock.step = 10 * DAY
    write(tmp_path, -10)
    wait(GRACE_SECONDS / 2)
    assert caplog.messages[0].startswith("10 files of the log")
    clock.step = timedelta()
    wait(2 * GRACE_SECONDS)
    assert ages(tmp_path) == [-10, *range(31)]


@pytest.mark.parametrize("step", [2, 10, 30, 31, 500])
def test_a_clock_that_goes_on_without_entries_removes_no_more_than_a_day(
    tmp_path: Path, clock: Clock, wait: Wait, step: int
) -> None:
    write(tmp_path, *range(31))
    clock.step = step * DAY
    wait(3 * GRACE_SECONDS)
    assert {*range(30)} <= {*ages(tmp_path)}


def test_newest_entries_that_are_old_are_said_once(
    tmp_path: Path, wait: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, *range(31, 131))
    write(tmp_path, 0, text="")
    wait(2 * GRACE_SECONDS)
    (line,) = caplog.messages
    assert "by the clock it is 2026-11-28, but the newest entries are of 2026-10-28" in line
    assert len(ages(tmp_path)) == 101


def test_a_day_that_cannot_be_removed_takes_no_other_with_it(tmp_path: Path, wait: Wait) -> None:
    write(tmp_path, *range(31))
    (tmp_path / "2001-01-01.jsonl").mkdir()
    (tmp_path / "2001-13-45.jsonl").write_text("{}\n")
    (tmp_path / "2002-01-01.jsonl").symlink_to(tmp_path / f"{TODAY}.jsonl")
    wait(2 * GRACE_SECONDS)
    assert len([*tmp_path.iterdir()]) == 34


def test_without_gaps_it_is_the_calendar_that_counts(tmp_path: Path) -> None:
    """From the newest entries; random logs in which no gap is longer than the retention."""
    for seed in range(200):
        rng = random.Random(seed)
        days = rng.randint(1, 20)
        directory = tmp_path / str(seed)
        directory.mkdir()
        age = rng.randint(-3, days)
        written = []
        while age < 60:
            written.append(age)
            age += rng.randint(1, days)
        write(directory, *written)
        newest = next((age for age in written if age >= 0), 0)
        expected = [age for age in written if age - newest + min(newest, 1) > days]
        found = find_old_files(directory, TODAY, days)
        assert [(TODAY - date.fromisoformat(p.stem)).days for p in found] == expected[::-1], seed
