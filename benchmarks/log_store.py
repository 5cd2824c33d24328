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


def measure(
    kind: Any, filter: Filter, source: str | None, directory: str = "", **more: Any
) -> dict[str, Any]:
    """Run a reading process; return its seconds, its memory in MiB and how much it wrote."""
    job = Job(kind, directory, filter, source, **more)
    started = time.perf_counter()
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdin and process.stdout
    process.stdin.write(orjson.dumps(asdict(job)) + b"\n")
    process.stdin.flush()
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, kind
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 2), "MiB": usage.ru_maxrss >> 10, "output": output}


def main() -> None:
    """Generate, merge, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--pods", type=int, default=10)
    given = parser.parse_args()
    with serving_s3(), tempfile.TemporaryDirectory() as folder:
        store = LogStore(SOURCE)
        days = [START + timedelta(days=number) for number in range(given.days)]
        sizes = [write_day(store, day, given.entries // given.days, given.pods) for day in days]
        middle = str(days[given.days // 2].date())
        file = Path(folder, f"{middle}.jsonl")
        with file.open("wb") as out:
            for path in store.list_objects(middle).lines:
                out.write(gzip.decompress(store.fetch(path)))
        id = json.loads(file.open("rb").readline())["id"]
        until = f"{days[given.days // 2 + 1].date()}T00:00:00.000000Z"
        some = Filter(exact={"status": "error"}, parts={"model": "qwen3"})
        missing = Filter(q="zanzibarian", since=f"{middle}T00:00:00.000000Z", until=until)
        unmerged = measure("page", some, SOURCE, limit=50)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "log.compact", SOURCE], cwd=ROOT, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        merging = time.perf_counter() - started
        merger = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
        stored = sum(store.list_objects(day).size for day in store.list_days())
        rows = {
            "newest fifty, status and model, one day not merged": unmerged,
            "newest fifty, status and model": measure("page", some, SOURCE, limit=50),
            "newest fifty": measure("page", Filter(), SOURCE, limit=50),
            "an entry by its id": measure("entry", Filter(exact={"id": id}), SOURCE),
            "a search of a day without a hit": measure("count", missing, SOURCE),
            "the same, of the day's file": measure("count", missing, None, folder),
            "figures": measure("figures", Filter(), SOURCE, tz="Europe/Berlin"),
        }
    lines = sum(size for size, _ in sizes)
    print(
        f"{given.entries:,} entries, {given.days} days, {given.pods} pods, {os.cpu_count()} cores"
    )
    for name, row in rows.items():
        print(f"{name:55} {row['seconds']:6.2f} s {row['MiB']:6} MiB")
    print(
        f"merging: {merging:.0f} s, {given.entries / merging:,.0f} entries a second, {merger} MiB"
    )
    packed = sum(packed for _, packed in sizes) / lines
    print(f"size: {lines / 1e6:,.0f} MB of lines, packed {packed:.2f}, merged {stored / lines:.2f}")


if __name__ == "__main__":
    main()
