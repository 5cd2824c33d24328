"""The shipper: every entry comes into the bucket, whatever is killed, and is found there once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from log.filter import Filter
from log.store import LogStore
from log.store_reader import StoreReader
from tests.conftest import eventually
from tests.log.stores import compact, serving_s3
from tests.processes import BIN, ROOT

SHIP = ROOT / "deploy" / "kubernetes" / "components" / "log-shipper" / "ship.sh"
SOURCE = "s3://log/of/pods"
KILLS = 3
"""How many writers of a pod are killed."""

WRITER = """
import asyncio, sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from log.entry import format_timestamp
from logger import JsonlLog
from web.docs import EXAMPLE_ENTRY

async def main(directory, name, count):
    async with JsonlLog(Path(directory)) as log:
        for number in range(count):
            entry = replace(EXAMPLE_ENTRY, id=f"{name}-{number:07d}",
                            finished_at=format_timestamp(datetime.now(UTC)))
            await log.append(entry)
            print(entry.id, flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""
pytestmark = pytest.mark.skipif(not (BIN / "rclone").exists(), reason="there is no rclone")


@contextmanager
def shipping(pod: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the shipper of a pod for the length of the block, as its container does."""
    remote = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "LOG_DIR": str(pod / "entries"),
        "OUTGOING_DIR": str(pod / "outgoing"),
        "POD": pod.name,
        "SECONDS_BETWEEN": "0.1",
        "DESTINATION": f"bucket:{SOURCE.removeprefix('s3://')}",
        "RCLONE_CONFIG": "",
        "RCLONE_CONFIG_BUCKET_TYPE": "s3",
        "RCLONE_CONFIG_BUCKET_PROVIDER": "Other",
        "RCLONE_CONFIG_BUCKET_ENV_AUTH": "true",
        "RCLONE_CONFIG_BUCKET_ENDPOINT": environment["AWS_ENDPOINT_URL"],
        "RCLONE_CONFIG_BUCKET_REGION": environment["AWS_REGION"],
        "RCLONE_S3_NO_CHECK_BUCKET": "true",
    }
    command = ["sh", str(SHIP)]
    with subprocess.Popen(
        command, env=environment | remote, start_new_session=True, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def write(pod: Path, name: str, count: int, written: Path) -> "subprocess.Popen[bytes]":
    """Start a process that writes entries as the service does, and says in a file which are."""
    command = [sys.executable, "-c", WRITER, str(pod / "entries"), name, str(count)]
    with written.open("w") as output:
        return subprocess.Popen(command, cwd=ROOT, stdout=output)


def ids_in(store: str) -> list[str]:
    """Return the ids of all entries that a store has."""
    with StoreReader(store, Filter()) as reader:
        return [found.entry["id"] for found in reader.find()]


def is_sent(pod: Path) -> bool:
    """Return whether nothing waits to be sent."""
    waiting = [*(pod / "entries").glob("*.jsonl"), *(pod / "outgoing").rglob("*.jsonl*")]
    try:
        return not any(path.stat().st_size for path in waiting)
    except FileNotFoundError:  # it is moved at this moment
        return False


def ship_with_kills(folder: Path, environment: dict[str, str], pods: int, count: int) -> None:
    """Write entries in several pods while writers, shippers and what merges are killed."""
    rng = random.Random(count)
    written: set[str] = set()
    for number in range(pods):
        pod = folder / f"minivault-{number}"
        turn, left = 0, count // pods
        while left:
            output = folder / f"{number}-{turn}.txt"
            writer = write(pod, f"{number}-{turn}", left, output)
            while writer.poll() is None:
                with shipping(pod, environment), suppress(subprocess.TimeoutExpired):
                    writer.wait(rng.uniform(0.2, 1.0))
                if turn < KILLS and rng.random() < 0.2:
                    writer.kill()
                    writer.wait()
            ids = set(output.read_text().split("\n")[:-1])
            written |= ids
            turn, left = turn + 1, left - len(ids)
        has_sent = pod / "outgoing" / ".sent"
        has_sent.unlink(missing_ok=True)
        with shipping(pod, environment) as shipper:
            eventually(lambda: has_sent.exists() and is_sent(pod))
            shipper.send_signal(signal.SIGTERM)
            assert shipper.wait(60) == 0
    found = ids_in(SOURCE)
    assert len(found) == len({*found}), "found twice"
    # one that was being written when its writer was killed may be there as well
    assert {*found} >= written and len({*found} - written) <= KILLS * pods
    assert len(written) == count
    assert compact(SOURCE)[0] == 0
    assert {*ids_in(SOURCE)} == {*found}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A bucket, as the environment names it."""
    with serving_s3() as names:
        for name, value in names.items():
            monkeypatch.setenv(name, value)
        yield {**os.environ}


def test_every_entry_comes_into_the_bucket(tmp_path: Path, environment: dict[str, str]) -> None:
    ship_with_kills(tmp_path, environment, pods=2, count=6_000)


@pytest.mark.long
def test_a_million_entries_of_four_pods_come_into_the_bucket(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    ship_with_kills(tmp_path, environment, pods=4, count=1_000_000)


def test_objects_stand_by_day_and_pod(tmp_path: Path, environment: dict[str, str]) -> None:
    pod = tmp_path / "minivault-7d4f"
    (pod / "entries").mkdir(parents=True)
    for day in ("2026-11-23", "2026-11-24"):
        line = json.dumps({"id": day, "finished_at": f"{day}T12:00:00.000000Z"}) + "\n"
        (pod / "entries" / f"{day}.jsonl").write_text(line)
    with shipping(pod, environment):
        eventually(lambda: is_sent(pod))
    for day in ("2026-11-23", "2026-11-24"):
        (path,) = LogStore(SOURCE).list_objects(day).lines
        assert path.startswith(f"date={day}/pod=minivault-7d4f/") and path.endswith(".jsonl.gz")
    assert ids_in(SOURCE) == ["2026-11-24", "2026-11-23"]


def test_a_bucket_that_is_away_keeps_the_log_where_it_is(tmp_path: Path) -> None:
    """And the shipper's probe sees that nothing is sent."""
    pod = tmp_path / "minivault-1"
    (pod / "entries").mkdir(parents=True)
    (pod / "entries" / "2026-11-24.jsonl").write_text('{"id": "1"}\n')
    away = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_REGION": "x"}
    away |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with shipping(pod, away | {"RCLONE_RETRIES": "1", "RCLONE_LOW_LEVEL_RETRIES": "1"}):
        eventually(lambda: list((pod / "outgoing").rglob("*.jsonl.gz")))
        time.sleep(1)  # several tries
    assert list((pod / "outgoing").rglob("*.jsonl.gz"))
    assert not (pod / "outgoing" / ".sent").exists()
