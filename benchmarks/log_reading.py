"""What reading the log costs, beside grep, jq and DuckDB on the same files; one command, one run.

    pip install -r requirements.txt && pip install -r benchmarks/requirements.txt
    python benchmarks/log_reading.py [--gigabytes 5]

Entries of 1.5 kB, a file a day, are written to a temporary folder (a gigabyte unless told
otherwise), and MiniVault is started on it. What is measured, over HTTP:

* The newest fifty entries: the first time after the start, and the median of the others.
* Searches that find nothing, so that every byte is read: megabytes per second. grep and DuckDB
  look for the same text, case ignored, DuckDB in the prompts and answers alone; jq parses the same
  fields. Tools that are not installed are left out.
* One hundred streams from the stub, a token every 50 ms, in turn while nothing is read and while
  searches go on: the first token's and the later tokens' lateness, 99th percentile.
* The most memory that the reading process held.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from linux import family
from servers import child, free_port, wait_for_answer

ROOT = Path(__file__).parent.parent
KEY = "the-benchmark's-key"
SENTENCE = "Über den Wolken muss die Freiheit wohl grenzenlos sein, said the pilot in straße {}. "
MISSING = {"ASCII": "zanzibar", "umlauts": "Übermütig", "Cyrillic": "Привет"}
STREAMS = 100
DELAY = 0.05
ROUNDS = 3
DAYS = 5
ALL_CORES = set(os.sched_getaffinity(0))


def generate(folder: Path, size: int) -> None:
    """Write so many bytes of entries, a file a day."""
    number = 0
    for day in range(1, DAYS + 1):
        with (folder / f"2026-11-{day:02}.jsonl").open("w", encoding="utf-8") as file:
            while file.tell() < size / DAYS:
                file.write("".join(line(number + n, day) for n in range(1000)))
                number += 1000


def line(number: int, day: int) -> str:
    """Return an entry's line."""
    at = (
        f"2026-11-{day:02}T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}.000000Z"
    )
    entry = {
        "id": f"{number:08x}-0000-4000-8000-000000000000",
        "started_at": at,
        "finished_at": at,
        "duration_ms": 500.0 + number % 1000,
        "endpoint": "/generate",
        "llm_type": "ollama",
        "model": f"llama3.2:{number % 3}b",
        "status": "error" if number % 50 == 0 else "ok",
        "prompt": "".join(SENTENCE.format(number + n) for n in range(5)),
        "system": None,
        "options": {"temperature": 0.2},
        "response": "".join(SENTENCE.format(number * n) for n in range(8)),
        "ttft_ms": 100.0 + number % 77,
        "prompt_tokens": 52,
        "response_tokens": 118,
    }
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n"


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


class Stream(asyncio.Protocol):
    """One answer of the stub: when it was asked for, and when each piece came."""

    def __init__(self, port: int) -> None:
        body = b'{"prompt": "Why?"}'
        head = f"POST /stream HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body
        self.times: list[float] = []
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.times.append(time.perf_counter())
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.times.append(time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)


async def stream(port: int) -> tuple[float, float]:
    """Return the 99th percentiles of the first token's and of the others' lateness, in ms."""
    first, later = [], []

    async def one(number: int) -> None:
        await asyncio.sleep(number / STREAMS)
        loop = asyncio.get_running_loop()
        _, answer = await loop.create_connection(lambda: Stream(port), "127.0.0.1", port)
        await answer.ended
        asked, *came = answer.times
        first.append((came[0] - asked) * 1000)
        gaps = zip(came[:-2], came[1:-1], strict=True)  # the last piece is the end
        later.extend((after - before - DELAY) * 1000 for before, after in gaps)

    await asyncio.gather(*(one(number) for number in range(STREAMS)))
    return statistics.quantiles(first, n=100)[98], statistics.quantiles(later, n=100)[98]


@contextmanager
def searching(client: httpx.Client) -> Iterator[None]:
    """Have one search after the other going on for the length of the block."""
    stopped = threading.Event()

    def search() -> None:
        while not stopped.is_set():
            with suppress(httpx.TimeoutException):
                client.get("/log", params={"q": MISSING["ASCII"]}, timeout=2)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(search)
        try:
            yield
        finally:
            stopped.set()


def measure_newest(client: httpx.Client) -> None:
    """Print how long the newest entries take."""
    first, *after = [seconds(lambda: client.get("/log")) * 1000 for _ in range(31)]
    print(f"newest 50: first {first:.1f} ms, then {statistics.median(after):.1f}", end="")
    print(f" (at most {max(after):.1f}) ms", flush=True)


def measure_streams(client: httpx.Client, port: int) -> None:
    """Print how late tokens come while nothing is read, and while something is."""
    quiet, busy = [], []
    asyncio.run(stream(port))  # to warm up
    for _ in range(ROUNDS):
        quiet.append(asyncio.run(stream(port)))
        with searching(client):
            busy.append(asyncio.run(stream(port)))
    for place, what in enumerate(("first token", "gaps")):
        without, during = (statistics.median(r[place] for r in rounds) for rounds in (quiet, busy))
        print(f"{what}, p99: {without:.1f} ms late without, {during:.1f} ms with a search", end="")
        print(f": {during - without:+.1f} ms")


def resident_bytes(pid: int) -> int:
    """Return what the process and those that it has now hold in memory."""
    texts = [Path(f"/proc/{member}/status").read_text() for member in family(pid)]
    return sum(int(text.split("VmRSS:")[1].split()[0]) for text in texts if "VmRSS" in text) * 1024


def measure_searches(client: httpx.Client, files: list[str], pid: int) -> None:
    """Print how fast nothing is found, by us and by the others, and what memory that takes."""
    megabytes = sum(Path(name).stat().st_size for name in files) / 1e6
    before = resident_bytes(pid)
    peak = before

    def watch() -> None:
        nonlocal peak
        while not finished.wait(0.05):
            with suppress(OSError, IndexError):
                peak = max(peak, resident_bytes(pid))

    def report(name: str, call: Callable[[], object], theirs: float = 0) -> float:
        took = seconds(call)
        ratio = f", {took / theirs:.2f} times MiniVault's time" if theirs else ""
        print(f"{name}: {took:.2f} s, {megabytes / took:,.0f} MB/s{ratio}", flush=True)
        return took

    finished = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    for kind, text in MISSING.items():
        found = [0]
        ours = report(f"MiniVault, {kind}", lambda: search(client, found, q=text))
        assert not found[0]
        for name, command in others(text, files).items():
            report(f"  {name}", lambda: subprocess.run(command, stdout=subprocess.DEVNULL), ours)
    report("MiniVault, a status that is rare", lambda: search(client, [0], status="cancelled"))
    report("MiniVault, figures", lambda: client.get("/log/figures"))
    finished.set()
    watcher.join()
    print(f"memory: {(peak - before) / 2**20:.0f} MiB more")


def search(client: httpx.Client, found: list[int], **params: str) -> None:
    """Do a search, and note how many entries it found."""
    found[0] = len(client.get("/log", params=params).json()["entries"])


def others(text: str, files: list[str]) -> dict[str, list[str]]:
    """Return what others would be asked to find the text, those that are installed."""
    fields = '[.prompt, .response] | any(test("' + text + '"; "i"))'
    columns = "columns={prompt: 'VARCHAR', response: 'VARCHAR'}, ignore_errors=true"
    query = f"select count(*) from read_json({files}, format='newline_delimited', {columns}) "
    query += f"where contains(lower(prompt), '{text.lower()}') or "
    query += f"contains(lower(response), '{text.lower()}')"
    commands = {
        "grep -i": ["grep", "-icF", text, *files],
        "jq": ["jq", "-c", f"select({fields})", *files],
        "DuckDB": [sys.executable, "-c", f"import duckdb; print(duckdb.sql({query!r}))"],
    }
    has_duckdb = subprocess.run([sys.executable, "-c", "import duckdb"], capture_output=True)
    if has_duckdb.returncode or text != MISSING["ASCII"]:
        del commands["DuckDB"]
    if text != MISSING["ASCII"]:
        del commands["jq"]
    return {name: command for name, command in commands.items() if shutil.which(command[0])}


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=1)
    gigabytes = parser.parse_args().gigabytes
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "logs"
        folder.mkdir()
        generate(folder, int(gigabytes * 1e9))
        files = sorted(map(str, folder.glob("*.jsonl")))
        port = free_port()
        command = [sys.executable, str(ROOT / "app.py")]
        command += ["--no-access-log", "--port", str(port)]
        settings = {
            "MINIVAULT_LOG_DIR": str(folder),
            "MINIVAULT_LOG_KEY": KEY,
            "MINIVAULT_STUB_DELAY": str(DELAY),
        }
        url, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {KEY}"}
        with (
            child(command, settings, ALL_CORES, Path(temporary) / "output") as service,
            httpx.Client(base_url=url, headers=headers, timeout=None) as client,
        ):
            wait_for_answer("MiniVault", port, service)
            print(f"{sum(Path(name).stat().st_size for name in files) / 1e9:.2f} GB")
            measure_newest(client)
            measure_streams(client, port)
            measure_searches(client, files, service.pid)


if __name__ == "__main__":
    main()
