"""Metrics for Prometheus (`GET /metrics`).

Names are those of OpenTelemetry's conventions for servers of language models where there are any,
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/, and `minivault_…` elsewhere.
Everything is counted once a request or once a write, nothing once a token.

Several workers count in files of the directory that PROMETHEUS_MULTIPROC_DIR names, and any of them
answers for all.
"""

import fcntl
import json
import multiprocessing
import os
import re
from collections.abc import Iterator
from pathlib import Path

import prometheus_client
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from log.entry import NO_ANSWERS, LogEntry
from log.speed import SPEED_KEYS, tokens_per_second
from protocols.registry import find_operation
from settings import VERSION
from upstream.model_names import canonical_name

MAX_MODELS = 50
"""How many models get a label of their own."""

MAX_NAME_LENGTH = 200
OTHER = "other"


def runs(pid: int) -> bool:
    """Return whether there is a process with this number."""
    try:
        os.kill(pid, 0)
    except OSError as exc:
        return isinstance(exc, PermissionError)  # another user's
    return True


def shared_files() -> dict[Path, int]:
    """Return the files in which workers share what they count, and whose they are."""
    found = {}
    for path in Path(SHARED_DIRECTORY or "").glob("*.db") if SHARED_DIRECTORY else ():
        if match := re.search(r"_(\d+)$", path.stem):
            found[path] = int(match[1])
    return found


def is_live(path: Path) -> bool:
    """Return whether a file is removed when its process ends."""
    return path.stem.startswith("gauge_live")


def remove_gauges_left_behind() -> None:
    """Remove the gauges of processes that were killed: after the restart of a container the new
    ones have the same numbers, and would go on from there."""
    for path, pid in shared_files().items():
        if is_live(path) and (pid == os.getpid() or not runs(pid)):
            path.unlink(missing_ok=True)


prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
if SHARED_DIRECTORY := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    Path(SHARED_DIRECTORY).mkdir(parents=True, exist_ok=True)
    if not multiprocessing.parent_process():  # before there are workers
        remove_gauges_left_behind()

BUILD = Gauge(
    "minivault_build_info",
    "1, with the version of MiniVault.",
    ["version"],
    multiprocess_mode="max",
)
BUILD.labels(VERSION).set(1)
REQUESTS = Counter(
    "minivault_requests_total",
    "Requests with an entry in the log, by its status; load and unload are no answers.",
    ["endpoint", "model", "status"],
)
IN_FLIGHT = Gauge(
    "minivault_requests_in_flight",
    "Requests that are being answered.",
    multiprocess_mode="livesum",
)
IN_FLIGHT_LIMIT = Gauge(
    "minivault_requests_in_flight_limit",
    "MINIVAULT_MAX_CONCURRENCY: the most requests that are answered at a time.",
    multiprocess_mode="livesum",
)
UNREACHABLE = Counter(
    "minivault_ollama_unreachable_total",
    "How often Ollama could not be reached, by a request or by /ready.",
)
REFUSED = Counter(
    "minivault_refused_requests_total",
    "Requests that were answered with an error of MiniVault's own, by its status.",
    ["status"],
)
TOKENS = Counter(
    "minivault_tokens_total",
    "Tokens as Ollama counts them, of prompts (input) and answers (output).",
    ["endpoint", "model", "type"],
)
LABELS = ["endpoint", "model", "gen_ai_operation_name", "gen_ai_provider_name"]
DURATION = Histogram(
    "gen_ai_server_request_duration_seconds",
    "From a request to the end of its answer, complete or not.",
    [*LABELS, "error_type"],
    buckets=[
        *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
        *(163.84, 327.68, 655.36),
    ],
)
FIRST_TOKEN = Histogram(
    "gen_ai_server_time_to_first_token_seconds",
    "From a request to the first token of a complete answer, unless it came as a whole.",
    LABELS,
    buckets=[
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
        *(20, 40, 80, 160, 320),  # a model that has to be loaded first
    ],
)
PER_TOKEN = Histogram(
    "gen_ai_server_time_per_output_token_seconds",
    "Between two tokens of a complete answer, on average: as Ollama measured, or of a stream.",
    LABELS,
    buckets=[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5],
)
LOG_ENTRIES = Counter("minivault_log_entries_total", "Entries written to the log.")
LOG_BYTES = Counter("minivault_log_bytes_total", "Bytes written to the log.")
LOG_WRITE = Histogram(
    "minivault_log_write_duration_seconds",
    "How long one write to the log took, its lock and its fsync included.",
    buckets=[0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30],
)
LOG_FAILURES = Counter("minivault_log_failures_total", "Writes to the log that failed.")
LOG_SECONDS = Gauge(
    "minivault_log_seconds_since_writable",
    "How long the log has not been writable; 0 while it is.",
    multiprocess_mode="livemax",
)
LOG_SIZE = Gauge(
    "minivault_log_size_bytes", "Bytes of the daily files.", multiprocess_mode="mostrecent"
)
LOG_FREE = Gauge(
    "minivault_log_free_bytes",
    "Bytes that are free where the log is.",
    multiprocess_mode="mostrecent",
)
LOG_WAITING = Gauge(
    "minivault_log_entries_waiting",
    "Entries that wait to be written.",
    multiprocess_mode="livesum",
)

_models: set[str] = set()


class NotSharedError(Exception):
    """There are several workers and no directory in which they could share what they count."""


def model_label(model: str | None, *, is_known: bool) -> str:
    """Return a model's name as Ollama lists it; `other` without a name, or with too many of them.

    Clients name models as they like: only one that has answered is known to exist.
    """
    name = canonical_name(model[:MAX_NAME_LENGTH]) if model else OTHER
    if is_known and name not in _models and len(_models) < MAX_MODELS:
        _models.update(share_model(name) if SHARED_DIRECTORY else [name])
    return name if name in _models else OTHER


def share_model(name: str) -> list[str]:
    """Return the names that have a label in any of the workers, with this one if there is room."""
    with open(Path(SHARED_DIRECTORY or "") / "models", "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        names: list[str] = [json.loads(line) for line in file]
        if name not in names and len(names) < MAX_MODELS:
            file.write(json.dumps(name) + "\n")
            names.append(name)
    return names


def count(entry: LogEntry) -> None:
    """Count a request that has ended."""
    is_complete = entry.status == "ok"
    model = model_label(entry.model, is_known=is_complete)
    is_answer = entry.finish_reason not in NO_ANSWERS
    status = entry.status if is_answer else entry.finish_reason
    REQUESTS.labels(entry.endpoint, model, status).inc()
    if not is_answer:
        return
    labels = (entry.endpoint, model, find_operation(entry.endpoint), entry.llm_type)
    error_type = "_OTHER" if entry.status == "error" else ""
    DURATION.labels(*labels, error_type).observe(entry.duration_ms / 1000)
    TOKENS.labels(entry.endpoint, model, "input").inc(entry.prompt_tokens or 0)
    TOKENS.labels(entry.endpoint, model, "output").inc(entry.response_tokens or 0)
    if not is_complete:
        return
    if entry.ttft_ms is not None:
        FIRST_TOKEN.labels(*labels).observe(entry.ttft_ms / 1000)
    if rate := tokens_per_second(*(getattr(entry, key) for key in SPEED_KEYS)):
        PER_TOKEN.labels(*labels).observe(1 / rate)


class WorkersCollector(Collector):
    """The `process_…` metrics of every worker, with its process number as a label."""

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with the values of all workers."""
        found: dict[str, Metric] = {}
        for pid in sorted({pid for path, pid in shared_files().items() if is_live(path)}):
            for metric in ProcessCollector(pid=lambda: pid, registry=None).collect():
                merged = found.setdefault(
                    metric.name, Metric(metric.name, metric.documentation, metric.type)
                )
                for sample in metric.samples:
                    merged.add_sample(sample.name, {"pid": str(pid)}, sample.value)
        yield from found.values()


def exposition(accept: str) -> tuple[bytes, str]:
    """Return all metrics in the format that an `Accept` header asks for, and its content type.

    Raises:
        NotSharedError: this is one of several workers that do not share what they count.
    """
    registry = REGISTRY
    if SHARED_DIRECTORY:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(WorkersCollector())
    elif multiprocessing.parent_process():
        raise NotSharedError(
            "there are several workers; set PROMETHEUS_MULTIPROC_DIR to an empty directory, in "
            "which they share their metrics"
        )
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version in the header is invalid
        encode, content_type = choose_encoder("")
    return encode(registry), content_type


def forget_ended_workers(*, this_one: bool = False) -> None:
    """Remove the gauges of workers that have ended, and of this one where it ends."""
    if not SHARED_DIRECTORY:
        return
    for pid in {*shared_files().values()}:
        if not runs(pid) or this_one and pid == os.getpid():
            mark_process_dead(pid, SHARED_DIRECTORY)  # type: ignore[no-untyped-call]
