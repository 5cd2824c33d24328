"""One measurement: a load on a target, and what that cost the process under test."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from load import Job
from processes import cpu_seconds, resident_bytes
from servers import Target

HERE = Path(__file__).parent
SPARE_SECONDS = 30


@dataclass(frozen=True)
class Load:
    """What a target is asked for."""

    streams: int
    tokens: int
    pace: float = 0
    """Tokens per second and stream; 0 is as fast as it goes."""
    opening: float = 0
    """Seconds over which the streams are opened."""
    repeat: int = 1
    stream: bool = True
    stamp: bool = False
    limit: float = 60


@dataclass(frozen=True)
class Sample:
    """What came of a load; times in milliseconds."""

    cpu_us_per_token: float
    tokens_per_second: float
    requests_per_second: float
    first_ms: float
    first_p99_ms: float
    total_ms: float
    reads_per_token: float
    added_ms: float
    added_p99_ms: float
    peak_bytes: int
    failures: dict[str, int]


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile, NaN of nothing."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def measure(target: Target, load: Load) -> Sample:
    """Put the load on the target, by a client in a process of its own."""
    job = Job(
        port=target.port,
        request=target.request(load.tokens, load.pace, stream=load.stream, stamp=load.stamp),
        tokens=load.tokens,
        streams=load.streams,
        opening=load.opening,
        repeat=load.repeat,
        stamps=load.stamp,
        limit=load.limit,
    )
    cpu_before = cpu_seconds(target.pid)
    peak = 0
    with subprocess.Popen(
        [sys.executable, str(HERE / "load.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as client:
        try:
            asked: str | None = json.dumps(asdict(job))
            deadline = time.monotonic() + load.limit + SPARE_SECONDS
            while True:
                try:
                    output, _ = client.communicate(asked, timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    asked = None
                    peak = max(peak, resident_bytes(target.pid))
                    if time.monotonic() > deadline:
                        raise
        finally:
            client.kill()
    cpu = cpu_seconds(target.pid) - cpu_before
    report = json.loads(output)
    tokens = report["tokens"] or float("nan")
    added, added_p99 = report["added_ms"] or (float("nan"), float("nan"))
    return Sample(
        cpu_us_per_token=cpu * 1e6 / tokens,
        tokens_per_second=tokens / report["seconds"],
        requests_per_second=len(report["total_ms"]) / report["seconds"],
        first_ms=percentile(report["first_ms"], 50),
        first_p99_ms=percentile(report["first_ms"], 99),
        total_ms=percentile(report["total_ms"], 50),
        reads_per_token=report["reads"] / tokens,
        added_ms=added,
        added_p99_ms=added_p99,
        peak_bytes=peak,
        failures=report["failures"],
    )


Say = Callable[[str], None]


def rounds(
    what: str, load: Load, targets: list[Target], count: int, say: Say
) -> dict[str, list[Sample]]:
    """Measure all targets in turn, so many times, each round beginning with another one."""
    samples: dict[str, list[Sample]] = {target.name: [] for target in targets}
    for number in range(count):
        first = number % len(targets)
        for target in targets[first:] + targets[:first]:
            sample = measure(target, load)
            samples[target.name].append(sample)
            say(f"{what}, round {number + 1} of {count}: {target.name}: {in_words(sample)}")
    return samples


def in_words(sample: Sample) -> str:
    """Return a sample as a line of progress."""
    failed = sum(sample.failures.values())
    return (
        f"{sample.cpu_us_per_token:.1f} µs of CPU per token, "
        f"{sample.tokens_per_second:,.0f} tokens/s, first token after {sample.first_ms:.1f} ms"
        + (f", {failed} FAILED ({', '.join(sample.failures)})" if failed else "")
    )
