"""What reading the log of many pods from an object store costs; one command, one run.

    pip install -r requirements-dev.txt
    python benchmarks/log_store.py [--entries 1000000] [--days 30] [--pods 10]

Entries of 1 kB are written for each pod as a shipper does, packed, and merged by `log.compact` in a
bucket of moto's S3 server on this machine, in a process of its own. What is measured is the whole
of a reading process, as the service starts one for each request, each time anew:

* The newest fifty entries, with a filter on status and model.
* An entry by its id.
* A search of one day that finds nothing, so that every text is read; beside the same search of the
  same day as a file.
* Figures of all days.
* The most memory that the process held, and the size of the store beside that of JSON lines.

Then the same of a folder with the same objects: moto reads an object whole for each part of it that
is asked for, so that of large objects its own work is most of what is measured.
"""

import argparse
import gzip
import json
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import orjson
import uuid_utils

from log.filter import Filter
from log.processes import COMMAND, ROOT
from log.store import LogStore
from log.store_reader import StoreReader
from log.worker import Job
from servers import free_port
from web.docs import EXAMPLE_ENTRY

START = datetime(2026, 10, 1, tzinfo=UTC)
BATCH = 5000
"""How many entries stand in an object."""

VOCABULARY = 20_000
MODELS = ["llama3.2:3b", "qwen3:8b", "gemma3:4b", "tinyllama:latest", "mistral-small:24b"]
CLIENTS = ["OpenAI/Python 3.57.0", "curl/8.14.1", "claude-cli/2.1", "ollama-python/0.6.3"]
SOURCE = "s3://log/pods"


class Texts:
    """Texts of words that are as frequent as in a language (Zipf's law)."""

    def __init__(self, rng: random.Random) -> None:
        letters = "etaoinshrdlucmfwypvbgk"
        words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(VOCABULARY)]
        weights = [1 / rank for rank in range(1, VOCABULARY + 1)]
        self._words = rng.choices(words, weights, k=2_000_000)
        self._rng = rng

    def draw(self, count: int) -> str:
        """Return a text of so many words."""
        start = self._rng.randrange(len(self._words) - count)
        return " ".join(self._words[start : start + count])


def make_line(texts: Texts, rng: random.Random, moment: datetime) -> bytes:
    """Return the line of an entry that was finished at a moment."""
    prompt, duration = texts.draw(rng.randint(5, 40)), rng.expovariate(1 / 3000) + 50
    model = rng.choice(MODELS)
    entry = asdict(EXAMPLE_ENTRY) | {
        "id": str(uuid_utils.uuid7(int(moment.timestamp()), moment.microsecond * 1000)),
        "started_at": stamp(moment - timedelta(milliseconds=duration)),
        "finished_at": stamp(moment),
        "duration_ms": round(duration, 3),
        "endpoint": "/v1/chat/completions",
        "model": model,
        "status": rng.choices(["ok", "error", "cancelled"], [95, 3, 2])[0],
        "prompt": prompt,
        "response": texts.draw(rng.randint(5, 60)),
        "ttft_ms": round(duration / 5, 3),
        "prompt_tokens": rng.randint(10, 4000),
        "response_tokens": rng.randint(1, 900),
        "request": {"model": model, "messages": [{"role": "user", "content": prompt}]},
        "user_agent": rng.choice(CLIENTS),
        "conversation": f"{rng.getrandbits(64):016x}",
    }
    return orjson.dumps(entry) + b"\n"


def stamp(moment: datetime) -> str:
    """Return a timestamp of the log."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def write_day(store: LogStore, day: datetime, entries: int, pods: int) -> tuple[int, int]:
    """Write the objects of a day; return the bytes of its lines, and of its objects."""
    rng = random.Random(day.toordinal())
    texts = Texts(rng)
    size = packed = 0
    for pod in range(pods):
        for begin in range(0, entries // pods, BATCH):
            count = min(BATCH, entries // pods - begin)
            first = 86_400 * begin / (entries // pods)
            seconds = sorted(
                first + rng.random() * 86_400 * count * pods / entries for _ in range(count)
            )
            moments = (day + timedelta(seconds=min(each, 86_399)) for each in seconds)
            lines = b"".join(make_line(texts, rng, moment) for moment in moments)
            data = gzip.compress(lines, 1)
            path = f"date={day.date()}/pod=minivault-{pod}/{begin:08}.jsonl.gz"
            store._store.put(path, data)
            size += len(lines)
            packed += len(data)
    return size, packed


@contextmanager
def serving_s3() -> Iterator[None]:
    """Run moto's S3 server with an empty bucket, and point the environment at it."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("moto_server")), "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    os.environ |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_REGION": "us-east-1",
    }
    try:
        wait_until_listening(port)
        urllib.request.urlopen(urllib.request.Request(f"{url}/log", method="PUT"))
        yield
    finally:
        server.terminate()
        server.wait()


def wait_until_listening(port: int) -> None:
    """Return when something listens on a port."""
    while True:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)


RUN = """
import resource, subprocess, sys, time
started = time.perf_counter()
job, *command = sys.argv[1:]
process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
process.stdin.write(job.encode())
process.stdin.flush()  # it stays open: at its end a search stops
assert process.wait() == 0
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""In a process of its own: the memory of who starts a process counts as that process's too."""


def measure(
    kind: Any, filter: Filter, source: str | None, directory: str = "", **more: Any
) -> dict[str, float]:
    """Run a reading process; return its seconds, and its memory in MiB."""
    job = orjson.dumps(asdict(Job(kind, directory, filter, source, **more))).decode() + "\n"
    command = [sys.executable, "-c", RUN, job, *COMMAND]
    output = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=True).stdout
    seconds, kilobytes = output.split()
    return {"seconds": float(seconds), "MiB": int(kilobytes) >> 10}


def measure_all(source: str, folder: Path, days: list[str]) -> dict[str, dict[str, float]]:
    """Measure a store of these days; beside it a day as a file, which is left in the folder."""
    middle, following = days[len(days) // 2 : len(days) // 2 + 2]
    file = folder / f"{middle}.jsonl"
    if not file.exists():
        with StoreReader(source, Filter(since=since(middle), until=since(following))) as reader:
            file.write_bytes(b"".join(found.line + b"\n" for found in reader.find()))
    id = json.loads(file.open("rb").readline())["id"]
    some = Filter(exact={"status": "error"}, parts={"model": "qwen3"})
    missing = Filter(q="zanzibarian", since=since(middle), until=since(following))
    return {
        "newest fifty, status and model": measure("page", some, source, limit=50),
        "newest fifty": measure("page", Filter(), source, limit=50),
        "an entry by its id": measure("entry", Filter(exact={"id": id}), source),
        "a search of a day without a hit": measure("count", missing, source),
        "the same, of the day's file": measure("count", missing, None, str(folder)),
        "figures": measure("figures", Filter(), source, tz="Europe/Berlin"),
    }


def since(day: str) -> str:
    """Return the beginning of a day."""
    return f"{day}T00:00:00.000000Z"


def copy(store: LogStore, folder: Path) -> None:
    """Copy what was merged to a folder."""
    for day in store.list_days():
        for path in store.list_objects(day).parquet:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(store.fetch(path))


def print_rows(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print what was measured."""
    for name, row in rows.items():
        print(f"{title:7} {name:50} {row['seconds']:6.2f} s {row['MiB']:6} MiB", flush=True)


def main() -> None:
    """Generate, merge, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--pods", type=int, default=10)
    given = parser.parse_args()
    with serving_s3(), tempfile.TemporaryDirectory() as name:
        store, folder = LogStore(SOURCE), Path(name)
        days = [START + timedelta(days=number) for number in range(given.days)]
        sizes = [write_day(store, day, given.entries // given.days, given.pods) for day in days]
        print(
            f"{given.entries:,} entries, {given.days} days, {given.pods} pods, "
            f"{os.cpu_count()} cores"
        )
        some = Filter(exact={"status": "error"}, parts={"model": "qwen3"})
        print_rows(
            "S3", {"newest fifty, a day not merged": measure("page", some, SOURCE, limit=50)}
        )
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "log.compact", SOURCE], cwd=ROOT, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        merging = time.perf_counter() - started
        merger = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
        stored = sum(store.list_objects(day).size for day in store.list_days())
        names = [str(day.date()) for day in days]
        print_rows("S3", measure_all(SOURCE, folder, names))
        copy(store, folder / "store")
        print_rows("folder", measure_all(str(folder / "store"), folder, names))
    lines = sum(size for size, _ in sizes)
    print(
        f"merging: {merging:.0f} s, {given.entries / merging:,.0f} entries a second, {merger} MiB"
    )
    packed = sum(packed for _, packed in sizes) / lines
    print(f"size: {lines / 1e6:,.0f} MB of lines, packed {packed:.2f}, merged {stored / lines:.2f}")


if __name__ == "__main__":
    main()
