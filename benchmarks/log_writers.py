"""What the log costs, beside what people would use instead; one command compares them in one run.

    pip install -r requirements.txt -r benchmarks/requirements.txt
    python benchmarks/log_writers.py [--quick]

A full run takes some minutes, prints a table and writes it, with every round's figures in JSON, to
`benchmarks/results/log_writers.*`. `--quick` takes half a minute and only prints.

Everyone writes the same entry of 1 kB to a file, flushed, and is given its fastest JSON. Everyone
is called as in the service, by tasks on an event loop (uvloop, as in uvicorn) that each hand in an
entry and the next one when that returns; only MiniVault's `append` has them wait. The writers take
turns for several rounds, each in a fresh process, so that CPU and memory are its own. After each,
every line must parse and every entry stand in the file exactly once.

* Entries per CPU second: of all threads, at full speed, until the last entry is in the file.
* Calling thread: the CPU time of the event loop's thread per entry, with the futures and task
  switches that only MiniVault needs. One at a time is dearer: each wakes the writer.
* In the file: from the call, after a millisecond of rest, until the file has grown and the call
  has returned. Where it returns earlier the file is polled, which can find the line 70 µs late.
* Memory: what the process grew by, at most, in a flood of entries as fast as they can be made.
"""

import argparse
import asyncio
import gc
import json
import logging
import logging.handlers
import queue
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import fields
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import orjson
import uvloop
from report import Machine, spread, table

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # a writer is imported only by the process that measures it

Append = Callable[[Any], Awaitable[None]]
Samples = dict[str, dict[str, list[float]]]  # by writer and title, one for each round

PACKAGES = "uvloop pydantic-core python-json-logger loguru structlog orjson".split()
PRODUCERS = 64
FULL = (5, 10_000, 500, 1_000_000)  # rounds; entries at once, one at a time, and in the flood
QUICK = (2, 3_000, 150, 100_000)
SAMPLE: dict[str, Any] = {
    "id": "",
    "started_at": "2026-01-01T12:00:00.000000Z",
    "duration_ms": 1234.567,
    "finished_at": "2026-01-01T12:00:01.234567Z",
    "endpoint": "/generate",
    "status": "ok",
    "llm_type": "ollama",
    "model": "llama3.2:1b",
    "ttft_ms": 123.4,
    "prompt_tokens": 52,
    "options": {"temperature": 0.2, "num_ctx": 4096},
    "response_tokens": 118,
}
TEXT = "What is a café “au lait”, and who drank it first?\n" * 6


def entries_for(name: str, count: int) -> Iterator[Any]:
    """Yield so many entries, as the writer takes them, with texts of their own."""
    from logger import LogEntry

    template: dict[str, Any] = {each.name: SAMPLE.get(each.name) for each in fields(LogEntry)}
    for number in range(count):
        prompt, response = f"{number} {TEXT}", f"{number} {TEXT}"
        entry: dict[str, Any] = template | {
            "id": str(number),
            "prompt": prompt,
            "response": response,
        }
        yield LogEntry(**entry) if "MiniVault" in name else entry


@asynccontextmanager
async def minivault(folder: Path, fsync: bool = False) -> AsyncIterator[Append]:
    """MiniVault: a thread formats and writes, and the caller's task waits until that is done."""
    from logger import JsonlLog

    async with JsonlLog(folder, fsync=fsync) as log:
        yield log.append


@asynccontextmanager
async def queue_handler(folder: Path) -> AsyncIterator[Append]:
    """`logging`: the caller queues a record, a listener's thread formats and writes it."""
    from pythonjsonlogger.orjson import OrjsonFormatter

    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.FileHandler(folder / "log.jsonl", encoding="utf-8")
    handler.setFormatter(OrjsonFormatter("%(message)s"))
    logger = logging.Logger("entries", logging.INFO)
    logger.addHandler(logging.handlers.QueueHandler(records))
    listener = logging.handlers.QueueListener(records, handler)

    async def append(entry: dict[str, Any]) -> None:
        logger.info("answered", extra=entry)

    listener.start()
    yield append
    listener.stop()
    handler.close()


@asynccontextmanager
async def loguru(folder: Path) -> AsyncIterator[Append]:
    """Loguru: the caller formats, and pickles into a pipe that a thread reads and writes out."""
    from loguru import logger

    def line(record: Any) -> str:
        record["extra"]["line"] = orjson.dumps(record["extra"]["entry"]).decode()
        return "{extra[line]}\n"

    async def append(entry: dict[str, Any]) -> None:
        logger.bind(entry=entry).info("answered")

    logger.remove()
    logger.add(folder / "log.jsonl", format=line, enqueue=True)
    yield append
    logger.remove()


@asynccontextmanager
async def structlog(folder: Path) -> AsyncIterator[Append]:
    """structlog: the caller formats, writes and flushes, by its BytesLogger and orjson."""
    from structlog import BytesLogger, make_filtering_bound_logger, processors, wrap_logger

    with (folder / "log.jsonl").open("ab") as file:
        logger = wrap_logger(
            BytesLogger(file),
            processors=[processors.JSONRenderer(serializer=orjson.dumps)],
            wrapper_class=make_filtering_bound_logger(logging.INFO),
        ).bind()

        async def append(entry: dict[str, Any]) -> None:
            logger.info("answered", **entry)

        yield append


Writer = Callable[[Path], AbstractAsyncContextManager[Append]]
WRITERS: dict[str, tuple[Writer, str]] = {  # and what is sure when they return
    "MiniVault": (minivault, "the OS has it"),
    "MiniVault, fsync": (partial(minivault, fsync=True), "the disk has it"),
    "logging, QueueHandler": (queue_handler, "it is queued in memory"),
    "loguru, enqueue": (loguru, "it is in a pipe; while that is full the loop waits"),
    "structlog, no thread": (structlog, "the OS has it; the loop waited for the disk"),
}


def peak_memory() -> float:
    """Return the most memory that this process ever had, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


async def produce(append: Append, entries: Iterator[Any]) -> None:
    """Let the producers append the entries."""

    async def producer() -> None:
        for entry in entries:
            await append(entry)

    await asyncio.gather(*(producer() for _ in range(PRODUCERS)))


async def measure(name: str, folder: Path, busy: int, alone: int) -> dict[str, float]:
    """Return what entries cost when all tasks append, and when one does."""
    entries = iter(list(entries_for(name, busy + alone)))
    gc.freeze()
    async with WRITERS[name][0](folder) as append:
        cpu, thread = time.process_time(), time.thread_time()
        await produce(append, islice(entries, busy))
        thread = time.thread_time() - thread
    cpu = time.process_time() - cpu
    file = max(folder.iterdir(), key=lambda file: file.stat().st_size)
    spent, waited = [], []
    async with WRITERS[name][0](folder) as append:
        for entry in entries:
            await asyncio.sleep(0.001)
            size = file.stat().st_size
            clock, started = time.perf_counter(), time.thread_time()
            await append(entry)
            spent.append(time.thread_time() - started)
            while file.stat().st_size == size:
                time.sleep(1e-5)  # without it the writer's thread waits 5 ms for the GIL
            waited.append(time.perf_counter() - clock)
    return {
        "entries per CPU second": busy / cpu,
        "calling thread, µs": thread / busy * 1e6,
        "calling thread, one at a time, µs": statistics.fmean(spent) * 1e6,
        "in the file after, µs": statistics.median(waited) * 1e6,
        "99 % after, µs": statistics.quantiles(waited, n=100)[98] * 1e6,
    }


async def flood(name: str, folder: Path, count: int) -> dict[str, float]:
    """Return by how much the process grew, at most, while entries flooded in."""
    async with WRITERS[name][0](folder) as append:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
        before = peak_memory()
        await produce(append, entries_for(name, count))
    return {"memory, MiB": peak_memory() - before}


def run(function: Callable[..., Any], *args: Any) -> dict[str, float]:
    """Run the function on an event loop; the first thing that its process does."""
    return uvloop.run(function(*args))


def in_fresh_process(function: Callable[..., Any], name: str, *counts: int) -> dict[str, float]:
    """Run the function in a process and a folder of its own, and look for all its entries."""
    print(f"{function.__name__}: {name}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="log-writers-") as folder:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found = pool.submit(run, function, name, Path(folder), *counts).result()
        times = bytearray(sum(counts))
        for file in Path(folder).iterdir():
            with file.open("rb") as lines:
                for line in lines:
                    times[int(orjson.loads(line)["id"])] += 1
    if set(times) != {1}:
        raise SystemExit(f"{name}: {len(times) - times.count(1)} entries are not there once")
    return found


def lines(samples: Samples) -> Iterator[tuple[str, ...]]:
    """Yield a row of the table for each writer: medians, ranges, ratios to MiniVault's."""
    ours = samples["MiniVault"]
    for name, found in samples.items():
        cells = []
        for title, values in found.items():
            form = ",.0f" if statistics.median(values) >= 100 else ".1f"
            ratio = statistics.median(values) / statistics.median(ours[title])
            cells.append(f"{spread(values, form)} {ratio:.1f}×")
        yield name, *cells, *["–"] * (len(ours) - len(cells)), WRITERS[name][1]


def main() -> None:
    """Take turns, print the table and, of a full run, keep it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer entries; only print")
    quick = parser.parse_args().quick
    machine = Machine()
    rounds, busy, alone, million = QUICK if quick else FULL
    samples: Samples = {name: {} for name in WRITERS}
    turns: list[tuple[Any, ...]] = [(measure, name, busy, alone) for name in list(WRITERS) * rounds]
    # a million fsynced entries take a minute, and queue the same way
    turns += [(flood, name, million) for name in WRITERS if name != "MiniVault, fsync"]
    for function, name, *counts in turns:
        for title, value in in_fresh_process(function, name, *counts).items():
            samples[name].setdefault(title, []).append(value)
    legend = (
        f"Medians (spread) of {rounds} rounds of {busy:,} entries at once and {alone} one at a "
        f"time, and the ratio to MiniVault's; memory of {million:,} entries; {PRODUCERS} tasks."
    )
    facts = machine.facts(*PACKAGES)
    header = ("writer", *samples["MiniVault"], "when it returns")
    text = "\n\n".join([table(header, lines(samples)), legend, table(("", ""), facts.items())])
    print(text)
    if not quick:
        kept = json.dumps({"machine": facts, "rounds": samples}) + "\n"
        (HERE / "results" / "log_writers.md").write_text(text + "\n")
        (HERE / "results" / "log_writers.json").write_text(kept)


if __name__ == "__main__":
    main()
