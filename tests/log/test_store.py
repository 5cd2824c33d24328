"""Many pods' entries in a store: found as in a folder, counted as in a folder, and merged."""

import json
import random
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from log import store_figures
from log.columns import TYPES, make_row, read_row
from log.engine import COLUMNS, Engine
from log.figures import compute_figures
from log.filter import Filter
from log.reader import Cursor, LogReader
from log.speed import SPEED_KEYS, tokens_per_second
from log.store import LogStore, StoreError, StoreRefusesError
from log.store_figures import TOKENS_PER_SECOND, compute_store_figures
from log.conditions import make_conditions
from log.store_reader import NOT_YET, StoreReader
from tests.log.stores import compact, pack, scatter, serving_s3, start_compacting
from tests.log.test_reader import DAY, entry
from tests.log.test_reading_property import Writer, draw_filter, plain, seeds

S3 = "s3://log/of/pods"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket, for this process and those that it starts."""
    with serving_s3() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield S3


def put(url: str, path: str, data: bytes) -> None:
    """Write an object."""
    LogStore(url)._store.put(path, data)


def upload(folder: Path, url: str) -> None:
    """Write all files of a folder as objects."""
    for path in folder.rglob("*.*"):
        put(url, str(path.relative_to(folder)), path.read_bytes())


def by_place(entries: list[dict[str, Any]]) -> list[str]:
    """Return the ids of entries in the order of a store, newest first."""

    def place(each: dict[str, Any]) -> tuple[str, str]:
        # what has no `finished_at` is at the beginning of its day
        return str(each.get("finished_at") or "?"), each["id"]

    return [each["id"] for each in sorted(entries, key=place, reverse=True)]


def read(url: Path | str, filter: Filter = Filter()) -> dict[str, dict[str, Any]]:
    """Return the entries of a store by their ids, newest first."""
    with StoreReader(str(url), filter) as reader:
        return {found.entry["id"]: found.entry for found in reader.find()}


def read_ids(url: Path | str, filter: Filter = Filter(), before: Cursor | None = None) -> list[str]:
    """Return which entries a store has."""
    with StoreReader(str(url), filter, before) as reader:
        return [found.entry["id"] for found in reader.find()]


def read_pages(url: Path | str, length: int) -> Iterator[list[str]]:
    """Yield the ids of page after page, each found by the cursor of the one before."""
    before = None
    while True:
        with StoreReader(str(url), Filter(), before) as reader:
            page = list(islice(reader.find(limit=length), length))
        yield [found.entry["id"] for found in page]
        if len(page) < length or page[-1].is_last:
            return
        before = Cursor.parse(str(Cursor.of(page[-1])))


def count(url: Path | str, filter: Filter = Filter()) -> int:
    """Return how many entries a store has."""
    with StoreReader(str(url), filter) as reader:
        return reader.count()


def write_pods(folder: Path, seed: int, count: int = 150) -> tuple[Path, Path]:
    """Write entries to a log's folder and to a store; some of the latter are merged."""
    rng = random.Random(seed)
    files, store = folder / "files", folder / "store"
    store.mkdir()
    writer = Writer(files, rng)
    writer.write_some(count)
    scatter(files, store, rng)
    if seed % 3:
        assert compact(str(store))[0] == 0
    if seed % 3 == 2:  # late ones, of which some were there before
        scatter(files, store, random.Random(seed + 1))
    return files, store


@pytest.mark.parametrize("seed", seeds(6, 3))
def test_a_store_finds_what_a_folder_finds(tmp_path: Path, seed: int) -> None:
    files, store = write_pods(tmp_path, seed)
    rng = random.Random(seed)
    for _ in range(12):
        wanted = draw_filter(rng)
        expected = {each["id"]: each for each in plain(files, wanted)}
        assert read(store, wanted) == expected, wanted
        assert count(store, wanted) == len(expected)
        with_time = [each for each in expected.values() if "finished_at" in each]
        order = [id for id in read_ids(store, wanted) if "finished_at" in expected[id]]
        assert order == by_place(with_time)


@pytest.mark.parametrize("seed", range(3))
def test_pages_of_a_store_have_each_entry_once(tmp_path: Path, seed: int) -> None:
    """Also where objects are merged between two pages."""
    files, store = write_pods(tmp_path, seed)
    ids = []
    for page in read_pages(store, 7):
        ids += page
        if len(ids) == 70:
            assert compact(str(store))[0] == 0
    assert sorted(ids) == sorted(each["id"] for each in plain(files, Filter()))


def write_realistic(folder: Path, rng: random.Random, days: int) -> None:
    """Write entries as the service does, of several models, clients and ends."""
    moment = datetime(2026, 10, 20, 3, 17, tzinfo=UTC)
    folder.mkdir(exist_ok=True)
    for number in range(600):
        moment += timedelta(days=days / 600, seconds=rng.random())
        streamed = rng.random() < 0.7
        duration = rng.random() * 9000
        one = entry(
            f"{number:06d}",
            started_at=None,
            finished_at=moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            model=rng.choice(["tinyllama", "tinyllama:latest", "llama3.2", "Qwen3:8b", None]),
            status=rng.choice(["ok", "ok", "ok", "error", "cancelled"]),
            duration_ms=duration,
            ttft_ms=rng.choice([None, duration / 3]) if streamed else None,
            response_ms=rng.choice([None, 0, duration / 2]),
            load_ms=rng.choice([None, rng.random() * 100]),
            streamed=streamed,
            prompt_tokens=rng.choice([None, 11, 400]),
            response_tokens=rng.choice([None, 1, 90]),
            response_chars=rng.choice([None, 0, 400]),
            prompt_chars=4,
            finish_reason=rng.choice(["stop", "load", None]),
            user_agent=rng.choice([None, "curl/8.5", "OpenAI/Python 3.57", "", "x" * 300]),
        )
        with (folder / f"{one['finished_at'][:10]}.jsonl").open("a") as file:
            file.write(json.dumps(one) + "\n")


@pytest.mark.parametrize(
    ("seed", "days", "tz"),
    [
        (0, 1, "UTC"),
        (1, 12, "Asia/Kathmandu"),
        (2, 130, "America/St_Johns"),
    ],
)
def test_figures_of_a_store_are_those_of_a_folder(
    tmp_path: Path, seed: int, days: int, tz: str
) -> None:
    """Over a change of the clocks, too."""
    files, store = tmp_path / "files", tmp_path / "store"
    store.mkdir()
    write_realistic(files, random.Random(seed), days)
    scatter(files, store, random.Random(seed))
    if seed:
        assert compact(str(store))[0] == 0
    filters = [Filter(), Filter(parts={"model": "TINY"}), Filter(exact={"status": "error"})]
    for wanted in [*filters, Filter(q="because"), Filter(parts={"model": "no such"})]:
        expected = compute_figures(LogReader(files, wanted).find(), ZoneInfo(tz))
        with StoreReader(str(store), wanted) as reader:
            found = compute_store_figures(reader, ZoneInfo(tz))
        assert found.keys() == expected.keys()
        if not expected["entries"]:
            assert found["entries"] == 0 and found["buckets"] == []
            continue
        for key in ("models", "clients"):  # those with as many entries may change places
            for figures in (found, expected):
                figures[key].sort(key=lambda each: str(each[key[:-1]]))
                for each in figures[key]:  # a model is named as its newest entry names it
                    each["model"] = str(each.get("model")).removesuffix(":latest")
        assert found == expected


@pytest.mark.parametrize(
    ("limit", "tolerance"), [("MAX_DOUBLE", 1e-5), ("MAX_HELD", 1)], ids=["REAL", "not held"]
)
def test_figures_of_very_many_entries_are_nearly_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, tolerance: float
) -> None:
    files, store = tmp_path / "files", tmp_path / "store"
    store.mkdir()
    write_realistic(files, random.Random(7), 3)
    scatter(files, store, random.Random(7))
    figures = []
    for _ in range(2):
        with StoreReader(str(store), Filter()) as reader:
            figures.append(compute_store_figures(reader, UTC))
        monkeypatch.setattr(store_figures, limit, 0)
    exact, other = ([[key, value] for key, value in walk(each)] for each in figures)
    assert [key for key, _ in exact] == [key for key, _ in other]
    for (key, value), (_, near) in zip(exact, other, strict=True):
        is_percentile = isinstance(key, str) and key.startswith("p") and key[1:].isdigit()
        assert near == (pytest.approx(value, rel=tolerance) if is_percentile else value), key


def walk(value: Any, key: object = None) -> Iterator[tuple[object, Any]]:
    """Yield what is in lists and objects, with the key of each."""
    if isinstance(value, dict | list):
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(each, name)
    else:
        yield key, value


@pytest.mark.parametrize("part", ["ß", "ﬁ", "\u212a", "ſ", "SS"])
def test_a_part_in_any_case_is_found_in_a_store(tmp_path: Path, part: str) -> None:
    agents = ["strasse/1", "finder/1", "kurl/1", "Straße/2"]
    lines = [entry(f"{number}", user_agent=agent) for number, agent in enumerate(agents)]
    pod = tmp_path / f"date={DAY}" / "pod=a"
    pod.mkdir(parents=True)
    (pod / "1.jsonl.gz").write_bytes(pack(*lines))
    assert compact(str(tmp_path))[0] == 0
    wanted = Filter(parts={"user_agent": part})
    with StoreReader(str(tmp_path), wanted) as reader:
        found = {found.entry["id"] for found in reader.find()}
    assert found == {each["id"] for each in lines if wanted.matches(each)} != set()


def test_figures_leave_out_what_cannot_be_true(tmp_path: Path) -> None:
    odd = [
        entry("a", response_ms=5e-324, response_tokens=3),
        entry("b", response_ms=0.001, response_tokens=2**51),
        entry("c", ttft_ms=5e15, duration_ms=10, streamed=False),
    ]
    pod = tmp_path / f"date={DAY}" / "pod=a"
    pod.mkdir(parents=True)
    (pod / "1.jsonl.gz").write_bytes(pack(*odd))
    with StoreReader(str(tmp_path), Filter()) as reader:
        figures = compute_store_figures(reader, UTC)
    assert figures["models"][0]["tokens_per_second"] is None
    assert all((bucket["ttft_ms"] or {}).get("p99", 0) < 1e15 for bucket in figures["buckets"])


NUMBER = st.one_of(st.none(), st.integers(0, 9), st.floats(0, 1000))


@hypothesis.settings(max_examples=40, deadline=None)
@given(st.tuples(NUMBER, NUMBER, st.sampled_from([None, True, False]), NUMBER, NUMBER))
def test_tokens_a_second_have_one_rule(values: tuple[Any, ...]) -> None:
    named = dict(zip(SPEED_KEYS, values, strict=True))
    if named["response_tokens"] is not None:
        named["response_tokens"] = int(named["response_tokens"])
    columns = ", ".join(f"?::{COLUMNS[key]} AS {key}" for key in SPEED_KEYS)
    ((found,),) = ENGINE.query(
        f"SELECT {TOKENS_PER_SECOND} FROM (SELECT {columns})", *named.values()
    )
    expected = tokens_per_second(*named.values())
    assert found == (None if expected is None else pytest.approx(expected))


ENGINE = Engine(LogStore("/"))

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*TYPES, "other"]), JSON))
def test_an_entry_is_the_same_after_its_way_through_columns(changes: dict[str, Any]) -> None:
    """With keys that nobody knows, and values of types that nobody expects."""
    one = entry("1") | changes
    row = make_row(one, b"a line", f"{DAY}T00:00:00.000000Z", "key")
    assert {key: value for key, value in read_row(row).items() if key in one} == one


def test_a_value_that_looks_like_sql_is_a_value(tmp_path: Path) -> None:
    hostile = """x' OR '1'='1"; DROP TABLE log; -- ?$1\\"""
    folder = tmp_path / f"date={DAY}" / "pod=a'); --"
    folder.mkdir(parents=True)
    (folder / "it's.jsonl.gz").write_bytes(pack(entry("1"), entry("2", prompt=hostile)))
    for merged in (False, True):
        if merged:
            assert compact(str(tmp_path))[0] == 0
        assert read_ids(tmp_path, Filter(q=hostile)) == ["2"]
        for key in ("status", "conversation", "id"):
            assert read_ids(tmp_path, Filter(exact={key: hostile})) == []
        for key in ("model", "endpoint", "client", "user_agent"):
            assert read_ids(tmp_path, Filter(parts={key: hostile})) == []
            assert count(tmp_path, Filter(parts={key: hostile})) == 0
        cursor = Cursor(DAY, 0, f"{DAY}T12:00:00.000000Z", hostile)
        assert read_ids(tmp_path, Filter(), cursor) == ["2", "1"]
    with pytest.raises(ValueError, match="no key"):
        make_conditions(Filter(exact={'id" OR "id': "1"}))


def test_objects_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """What is beside them is found."""
    day = tmp_path / f"date={DAY}"
    (day / "pod=a").mkdir(parents=True)
    (day / "pod=a" / "1.jsonl.gz").write_bytes(pack(entry("1")))
    (day / "pod=a" / "2.jsonl.gz").write_bytes(pack(entry("2"), entry("3"))[:-12])
    (day / "pod=a" / "3.jsonl.gz").write_bytes(b"no gzip")
    (day / "v00000001-half.parquet").write_bytes(b"PAR1 and no end")
    (day / "notes.txt").write_text("mine")
    (day / "_SUCCESS").write_text("")
    with StoreReader(str(tmp_path), Filter()) as reader:
        assert {"1"} <= {found.entry["id"] for found in reader.find()} <= {"1", "2", "3"}
    named = {"2.jsonl.gz", "3.jsonl.gz", "v00000001-half.parquet", "notes.txt"}
    assert len(reader.gaps) == len(named)
    assert all(any(name in gap for gap in reader.gaps) for name in named)
    assert reader.warnings()[-1] == NOT_YET
    status, output = compact(str(tmp_path))
    assert status == 1 and "2.jsonl.gz" in output and "left as it is" in output
    assert (day / "pod=a" / "2.jsonl.gz").exists() and (day / "pod=a" / "3.jsonl.gz").exists()
    assert not (day / "pod=a" / "1.jsonl.gz").exists()


def test_a_file_of_an_older_version_has_fewer_columns(tmp_path: Path) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    day = tmp_path / f"date={DAY}"
    day.mkdir()
    old = {"id": ["1"], "finished_at": [f"{DAY}T12:00:00.000000Z"], "prompt": ["Why?"]}
    old |= {"size": pa.array([100], pa.int64())}
    pq.write_table(pa.table(old), day / "v00000001-old.parquet")
    (found,) = read(tmp_path, Filter(q="why")).values()
    assert found["prompt"] == "Why?" and found["conversation"] is None
    foreign = {"id": [1], "finished_at": [2.5]}
    pq.write_table(pa.table(foreign), day / "v00000001-other.parquet")
    with StoreReader(str(tmp_path), Filter()) as reader:
        assert [each.entry["id"] for each in reader.find()] == ["1"]
    assert reader.gaps == [
        f"date={DAY}/v00000001-other.parquet cannot be read: its columns are not those of a log"
    ]


@pytest.mark.long
def test_large_entries_fit_into_memory(tmp_path: Path) -> None:
    """One of them alone is a group of rows."""
    for number in range(8):
        pod = tmp_path / f"date={DAY}" / f"pod={number}"
        pod.mkdir(parents=True)
        image = random.Random(number).randbytes(4 << 20).hex()
        (pod / "1.jsonl.gz").write_bytes(pack(entry(f"{number:02d}", request={"image": image})))
    for merged in (False, True):
        if merged:
            assert compact(str(tmp_path))[0] == 0
        assert read_ids(tmp_path) == [f"{7 - number:02d}" for number in range(8)]
        assert read_ids(tmp_path, Filter(q=image[:30])) == ["07"]


def test_nothing_is_lost_or_doubled_while_objects_are_merged_and_killed(tmp_path: Path) -> None:
    """Two at once, killed at any moment; a reader looks all the time."""
    rng = random.Random(7)
    files, store = write_pods(tmp_path, 0, 600)
    expected = sorted(each["id"] for each in plain(files, Filter()))
    for _ in range(6):
        pair = [start_compacting(str(store)) for _ in range(2)]
        until = time.monotonic() + rng.uniform(0.3, 1.5)
        while time.monotonic() < until:
            assert sorted(read_ids(store)) == expected
            assert count(store, Filter()) == len(expected)
        for process in pair:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert sorted(read_ids(store)) == expected
        scatter(files, store, rng, pods=1)  # a shipper that was killed sends again
    assert compact(str(store))[0] == 0
    assert sorted(read_ids(store)) == expected
    days = list(store.glob("date=*"))
    assert len(days) > 3 and all(len(list(day.glob("*.parquet"))) == 1 for day in days)
    assert not list(store.rglob("*.gz"))


def test_a_bucket_is_read_and_merged(tmp_path: Path, s3: str) -> None:
    files, store = write_pods(tmp_path, 0)
    upload(store, s3)
    expected = by_place(list(plain(files, Filter(q="sky"))))
    assert set(read_ids(s3, Filter(q="sky"))) == set(expected)
    number = count(s3)
    status, output = compact(s3)
    assert status == 0 and "objects became one" in output
    assert all(path.endswith(".parquet") for day in LogStore(s3).list_days()
               for path in LogStore(s3).list_objects(day).parquet)  # fmt: skip
    assert not any(LogStore(s3).list_objects(day).lines for day in LogStore(s3).list_days())
    assert set(read_ids(s3, Filter(q="sky"))) == set(expected)
    assert count(s3) == number


def test_a_bucket_that_is_missing_or_away_is_named(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="there is no bucket s3://other"):
        StoreReader("s3://other/log", Filter())
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoreError, match="127.0.0.1:1"):
        StoreReader(s3, Filter())
    assert issubclass(StoreRefusesError, StoreError)


def test_days_of_a_folder_become_parquet_beside_it(tmp_path: Path) -> None:
    """The log itself stays as it is, and a second run does nothing."""
    import duckdb

    today = datetime.now(UTC).date().isoformat()
    for day in ("2026-11-20", today):
        lines = [json.dumps(entry(f"{day}-{number}")) + "\n" for number in range(3)]
        (tmp_path / f"{day}.jsonl").write_text("".join(lines) + '{"id": "torn')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert compact(str(tmp_path))[0] == 0
    made = tmp_path / "2026-11-20.parquet"
    assert {path.name for path in tmp_path.iterdir()} == {*before, made.name}
    assert all((tmp_path / name).read_bytes() == data for name, data in before.items())
    assert made.stat().st_mode & 0o777 == 0o600
    rows = duckdb.connect().sql(f"SELECT id, prompt FROM '{made}' ORDER BY id").fetchall()
    assert rows == [(f"2026-11-20-{number}", "Why?") for number in range(3)]
    assert compact(str(tmp_path)) == (0, "")


def test_half_a_surrogate_pair_hides_nothing_from_a_period(tmp_path: Path) -> None:
    odd = b'{"id":"1","finished_at":"2026-11-24T12:00:00.000000Z","prompt":"x\\ud83d y"}'
    put(str(tmp_path), f"date={DAY}/pod=a/1.jsonl.gz", pack(odd, entry("2")))
    for merged in (False, True):
        if merged:
            assert compact(str(tmp_path))[0] == 0
        period = Filter(since=f"{DAY}T00:00:00.000000Z")
        assert read_ids(tmp_path, period) == ["2", "1"] and count(tmp_path, period) == 2


def test_a_search_goes_on_where_objects_were_merged_meanwhile(tmp_path: Path) -> None:
    """And new ones have come."""

    def ship(name: str, numbers: range) -> None:
        made = [entry(f"{n:04d}", finished_at=f"{DAY}T12:00:00.{n:06d}Z") for n in numbers]
        put(str(tmp_path), f"date={DAY}/pod=a/{name}.jsonl.gz", pack(*made))

    ship("1", range(0, 1000))
    assert compact(str(tmp_path))[0] == 0
    ship("2", range(1000, 1900))
    with StoreReader(str(tmp_path), Filter()) as reader:
        found = reader.find()
        ids = [each.entry["id"] for each in islice(found, 100)]
        assert compact(str(tmp_path))[0] == 0
        ship("3", range(1900, 1950))
        ids += [each.entry["id"] for each in found]
    assert ids == [f"{n:04d}" for n in reversed(range(1900))]


def test_entries_of_another_day_hide_no_others(tmp_path: Path) -> None:
    for day in (22, 23, 24):
        made = [entry(f"{day}-{n}", finished_at=f"2026-11-{day}T12:00:00Z") for n in range(4)]
        if day == 23:
            made += [entry("a", finished_at="2026-11-20T12:00:00Z"), entry("b", finished_at="now")]
        put(str(tmp_path), f"date=2026-11-{day}/pod=a/1.jsonl.gz", pack(*made))
    ids = [id for page in read_pages(tmp_path, 3) for id in page]
    assert sorted(ids) == sorted(read_ids(tmp_path)) and len(ids) == 14


@pytest.mark.parametrize("name", ["manifest.jsonl", "pod=a/text.jsonl"])
def test_what_has_no_entries_is_left_where_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"date={DAY}" / name
    path.parent.mkdir(parents=True)
    path.write_text("not\nan entry\n")
    status, output = compact(str(tmp_path))
    assert status == 1 and "it has no entries" in output and path.exists()


def test_a_file_that_is_damaged_in_its_middle_is_named(tmp_path: Path) -> None:
    """By readers, and by what merges, which goes on with other days."""
    for day in ("2026-11-23", DAY):
        made = [entry(f"{day}-{n}", finished_at=f"{day}T12:00:00Z") for n in range(500)]
        put(str(tmp_path), f"date={day}/pod=a/1.jsonl.gz", pack(*made))
        assert compact(str(tmp_path))[0] == 0
    (damaged,) = (tmp_path / f"date={DAY}").glob("*.parquet")
    data = bytearray(damaged.read_bytes())
    data[100 : len(data) // 2] = b"x" * (len(data) // 2 - 100)
    damaged.write_bytes(data)
    with StoreReader(str(tmp_path), Filter()) as reader:
        assert len(list(reader.find())) == 500
        assert damaged.name in reader.gaps[0]
    for day in ("2026-11-23", DAY):
        put(
            str(tmp_path), f"date={day}/pod=a/2.jsonl.gz", pack(entry(day, finished_at=f"{day}T13"))
        )
    status, output = compact(str(tmp_path))
    assert status == 1 and damaged.exists() and DAY in output
    assert len(list((tmp_path / "date=2026-11-23").rglob("*.*"))) == 1


def test_a_folders_day_that_has_changed_is_written_again(tmp_path: Path) -> None:
    """What is no file of the log's is left alone."""
    import duckdb

    file = tmp_path / "2026-11-20.jsonl"
    file.write_text(json.dumps(entry("1")) + "\n")
    (tmp_path / "2026-11-19.jsonl").mkdir()
    (tmp_path / "2026-11-18.jsonl").symlink_to(file)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".2026-11-20.parquet").symlink_to(victim)
    assert compact(str(tmp_path))[0] == 0
    with file.open("a") as more:
        more.write(json.dumps(entry("2")) + "\n")
    assert compact(str(tmp_path))[0] == 0
    made = tmp_path / "2026-11-20.parquet"
    assert duckdb.connect().sql(f"SELECT count(*) FROM '{made}'").fetchall() == [(2,)]
    assert victim.read_text() == "mine" and not (tmp_path / "2026-11-18.parquet").exists()


def test_what_the_command_lacks_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['pyarrow'] = None")
    status, output = compact("logs", PYTHONPATH=str(tmp_path))
    assert status == 1 and output.count("\n") == 1
    assert "pyarrow" in output and "requirements-cluster.txt" in output
