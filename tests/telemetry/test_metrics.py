"""What `/metrics` says: every request once, for all workers, and of no name that is made up."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from log.speed import ONE_PIECE_MS, SPEED_KEYS, tokens_per_second
from settings import VERSION
from telemetry.metrics import MAX_MODELS, OTHER
from tests.conftest import DEADLINE, eventually, read_log
from tests.ollama_stand_in import (
    Conversation,
    OllamaStandIn,
    hang,
    like_ollama,
    refuse,
    then,
    tokens,
)
from tests.processes import CLIENT, ROOT, SERVE, Process, free_port, process, workers
from tests.deploy.test_alerts import METRICS, needs_promtool

Series = dict[tuple[str, ...], float]
PROMETHEUS = shutil.which("prometheus")
CHAT = {"model": "tinyllama", "messages": [{"role": "user", "content": "Why?"}]}


def scraped(url: str) -> Series:
    """Return the value of every series: its name, and its labels' values in order."""
    answer = CLIENT.get(f"{url}/metrics")
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def sums(series: Series, name: str) -> float:
    """Return the sum of a metric's series."""
    return sum(value for (each, *_), value in series.items() if each == name)


@contextmanager
def before_ollama(
    ollama: OllamaStandIn, log_dir: Path, *options: str, **environment: str
) -> Iterator[Process]:
    """Run a service in front of the stand-in, in a process of its own: it counts from zero."""
    with process([*SERVE, *options], log_dir, **ollama.environment, **environment) as service:
        yield service


@pytest.fixture
def live(ollama: OllamaStandIn, tmp_path: Path) -> Iterator[Process]:
    """A service in front of a stand-in that answers on every interface."""
    ollama.answer = like_ollama
    with before_ollama(ollama, tmp_path / "logs") as service:
        yield service


def ask(url: str, path: str = "/generate", **fields: Any) -> int:
    """Ask something and return the status."""
    body = {"prompt": "Why?", **fields} if path in ("/generate", "/stream") else {**CHAT, **fields}
    return CLIENT.post(url + path, json=body).status_code


@contextmanager
def one_under_way(url: str) -> Iterator[None]:
    """Have a stream that has begun for the length of the block, and leave it."""
    with CLIENT.stream("POST", f"{url}/stream", json={"prompt": "Why?"}) as answer:
        pieces = answer.iter_bytes()  # httpx closes the connection with its iterator
        next(pieces)
        yield


def test_an_answer_is_counted_as_its_entry_says(live: Process, ollama: OllamaStandIn) -> None:
    ollama.answer = tokens("Blue", " light", delay=ONE_PIECE_MS / 1000)
    assert ask(live.url, "/stream") == 200
    (entry,) = read_log(live.log_dir)
    series = scraped(live.url)
    labels = ("/stream", "tinyllama:latest")
    conventions = ("text_completion", "ollama")
    full = ("/stream", *conventions, "tinyllama:latest")
    with_error = ("/stream", "", *conventions, "tinyllama:latest")
    seconds = {"duration": entry["duration_ms"] / 1000, "first": entry["ttft_ms"] / 1000}
    rate = tokens_per_second(*map(entry.get, SPEED_KEYS))
    assert rate
    between = 1 / rate
    expected = {
        ("minivault_requests_total", *labels, "ok"): 1,
        ("minivault_tokens_total", *labels, "input"): entry["prompt_tokens"],
        ("minivault_tokens_total", *labels, "output"): entry["response_tokens"],
        ("gen_ai_server_request_duration_seconds_sum", *with_error): seconds["duration"],
        ("gen_ai_server_time_to_first_token_seconds_sum", *full): seconds["first"],
        ("gen_ai_server_time_per_output_token_seconds_sum", *full): between,
        ("minivault_log_entries_total",): 1,
        ("minivault_log_bytes_total",): sum(
            path.stat().st_size for path in live.log_dir.glob("*.jsonl")
        ),
        ("minivault_log_failures_total",): 0,
        ("minivault_log_seconds_since_writable",): 0,
        ("minivault_requests_in_flight",): 0,
        ("minivault_requests_in_flight_limit",): 256,
        ("minivault_ollama_unreachable_total",): 0,
    }
    assert {key: series[key] for key in expected} == pytest.approx(expected)
    assert series["minivault_log_write_duration_seconds_count",] >= 1


def test_every_metric_is_there_under_the_name_that_the_boards_have(live: Process) -> None:
    assert ask(live.url, "/stream") == 200
    text = CLIENT.get(f"{live.url}/metrics").text
    kinds = {line.split()[2]: line.split()[3] for line in text.splitlines() if "# TYPE" in line}
    ours = {name: kind for name, kind in kinds.items() if name.startswith(("minivault", "gen_ai"))}
    assert ours == METRICS


@pytest.mark.parametrize("version", ["1..0", "1.0.0rc1", "x", "\xb2"])
def test_version_that_is_none_gets_the_plain_format(live: Process, version: str) -> None:
    accept = f"application/openmetrics-text; version={version}".encode("latin-1")
    answer = CLIENT.get(f"{live.url}/metrics", headers={b"Accept": accept})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")


def test_scraping_wants_no_key_is_not_logged_and_says_nothing_of_contents(
    ollama: OllamaStandIn, tmp_path: Path
) -> None:
    ollama.answer = like_ollama
    with before_ollama(ollama, tmp_path / "logs", MINIVAULT_API_KEY="secret") as service:
        key = {"Authorization": "Bearer secret"}
        body = {"prompt": "a-word-of-the-prompt"}
        assert CLIENT.post(f"{service.url}/generate", json=body, headers=key).status_code == 200
        text = CLIENT.get(f"{service.url}/metrics").text
        assert 'endpoint="/generate"' in text
        assert "secret" not in text and "a-word" not in text
        assert len(read_log(service.log_dir)) == 1


def test_what_failed_and_what_was_left_is_counted_as_such(
    live: Process, ollama: OllamaStandIn
) -> None:
    assert ask(live.url) == 200
    ollama.answer = refuse(500, "no")
    assert ask(live.url) == 502
    ollama.answer = then("Blue", end=hang)
    with one_under_way(live.url):
        assert scraped(live.url)["minivault_requests_in_flight",] == 1
    eventually(lambda: scraped(live.url)["minivault_requests_in_flight",] == 0)
    series = scraped(live.url)
    model = "tinyllama:latest"
    assert series["minivault_requests_total", "/generate", model, "error"] == 1
    assert series["minivault_requests_total", "/stream", model, "cancelled"] == 1
    labels = ("/generate", "text_completion", "ollama", model)
    assert series["gen_ai_server_time_to_first_token_seconds_count", *labels] == 1
    assert sums(series, "gen_ai_server_time_to_first_token_seconds_count") == 1
    assert sums(series, "gen_ai_server_request_duration_seconds_count") == 3


def test_no_client_makes_as_many_labels_as_it_likes(live: Process, ollama: OllamaStandIn) -> None:
    ollama.answer = refuse(404, "model not found")
    for number in range(5):
        ask(live.url, model=f"made-up-{number}")
    key = ("minivault_requests_total", "/generate", OTHER, "error")
    assert scraped(live.url)[key] == 5

    async def answer_anybody(talk: Conversation) -> None:
        await talk.start()
        await talk.done(response="Yes.")

    ollama.answer = answer_anybody
    for number in range(MAX_MODELS + 3):
        ask(live.url, model=f"Model-{number}")
        ask(live.url, model=f"model-{number}:LATEST")  # as Ollama, which ignores case
    series = scraped(live.url)
    named = {model for name, *labels in series if name == key[0] for model in labels[1:2]}
    assert named == {OTHER, *(f"model-{number}:latest" for number in range(MAX_MODELS))}
    assert series["minivault_requests_total", "/generate", OTHER, "ok"] == 6


def test_workers_share_the_bound_of_labels(ollama: OllamaStandIn, tmp_path: Path) -> None:
    async def answer_anybody(talk: Conversation) -> None:
        await talk.start()
        await talk.done(response="Yes.")

    ollama.answer = answer_anybody
    folder = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}
    with before_ollama(ollama, tmp_path / "logs", "--workers", "3", **folder) as service:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: ask(service.url, model=f"m-{n}"), range(3 * MAX_MODELS)))
        names = {labels[1] for name, *labels in scraped(service.url) if "requests_total" in name
                 and len(labels) == 3}  # fmt: skip
    assert len(names - {OTHER}) == MAX_MODELS


def test_a_killed_process_leaves_nothing_in_flight_to_one_of_its_number(tmp_path: Path) -> None:
    """As after the restart of a container, in which processes have the same numbers each time."""
    folder = str(tmp_path)
    begin = "from telemetry import metrics; metrics.IN_FLIGHT.inc(8); import os; "
    die = subprocess.run(
        [sys.executable, "-c", f"{begin}print(os.getpid(), flush=True); os.kill(os.getpid(), 9)"],
        **IN_ROOT, env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": folder},
    )  # fmt: skip
    pid = int(die.stdout)
    (gauge,) = [path for path in tmp_path.glob("gauge_livesum*") if str(pid) in path.name]
    # the next one with this number
    again = (
        f"import os; os.getpid = lambda: {pid}; os.kill = lambda *_: None; "
        "from telemetry import metrics; print(metrics.exposition('')[0].decode())"
    )
    said = subprocess.run(
        [sys.executable, "-c", again],
        **IN_ROOT, env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": folder},
    )  # fmt: skip
    assert "minivault_requests_in_flight 8" not in said.stdout and said.returncode == 0


IN_ROOT: dict[str, Any] = {"cwd": ROOT, "capture_output": True, "text": True}


def test_what_is_refused_is_counted_and_the_version_is_told(live: Process) -> None:
    assert CLIENT.post(f"{live.url}/generate", json={"prompt": ""}).status_code == 422
    assert CLIENT.get(f"{live.url}/log").status_code == 401
    series = scraped(live.url)
    assert series["minivault_refused_requests_total", "422"] == 1
    assert series["minivault_refused_requests_total", "401"] == 1
    assert series["minivault_build_info", VERSION] == 1
    assert series["minivault_log_free_bytes",] > 0
    assert (
        series["minivault_log_size_bytes",] == 0 and series["minivault_log_entries_waiting",] == 0
    )
    newest, *_ = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest == VERSION == CLIENT.get(f"{live.url}/openapi.json").json()["info"]["version"]
    said = subprocess.run([*SERVE, "--version"], **IN_ROOT)
    assert said.stdout == f"MiniVault {VERSION}\n"


def test_ollama_out_of_reach_is_counted_by_requests_and_probes(tmp_path: Path) -> None:
    environment = {
        "MINIVAULT_LLM_SERVICE": "ollama",
        "MINIVAULT_OLLAMA_BASE_URL": f"http://127.0.0.1:{free_port()}",
    }
    with process(SERVE, tmp_path / "logs", **environment) as service:
        assert ask(service.url) == 503
        assert CLIENT.get(f"{service.url}/ready").status_code == 503
        assert scraped(service.url)["minivault_ollama_unreachable_total",] == 2


def test_log_that_cannot_be_written_is_seen(live: Process) -> None:
    today = live.log_dir / f"{datetime.now(UTC):%Y-%m-%d}.jsonl"
    today.unlink()
    today.mkdir()
    assert ask(live.url) == 503
    series = scraped(live.url)
    assert series["minivault_log_failures_total",] >= 1
    assert series["minivault_log_seconds_since_writable",] > 0
    today.rmdir()
    eventually(lambda: scraped(live.url)["minivault_log_seconds_since_writable",] == 0)
    assert ask(live.url) == 200


def test_workers_answer_for_one_another_and_forget_one_that_died(
    ollama: OllamaStandIn, tmp_path: Path
) -> None:
    ollama.answer = like_ollama
    folder = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}
    with before_ollama(ollama, tmp_path / "logs", "--workers", "3", **folder) as service:
        eventually(lambda: scraped(service.url)["minivault_requests_in_flight_limit",] == 3 * 256)
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: ask(service.url), range(40))) == {200}
        key = ("minivault_requests_total", "/generate", "tinyllama:latest", "ok")
        assert {scraped(service.url)[key] for _ in range(12)} == {40}
        running = {str(worker) for worker in workers(service.popen.pid)}
        for name in ("process_cpu_seconds_total", "process_resident_memory_bytes"):
            shown = scraped(service.url).items()
            values = {key[1]: value for key, value in shown if key[0] == name}
            assert running <= values.keys() and min(values.values()) > 0
        ollama.answer = then("Blue", end=hang)
        with one_under_way(service.url):
            assert scraped(service.url)["minivault_requests_in_flight",] == 1
            for worker in workers(service.popen.pid):
                os.kill(worker, signal.SIGKILL)
        eventually(lambda: in_flight_or_none(service.url) == 0)
        assert scraped(service.url)[key] == 40


def in_flight_or_none(url: str) -> float | None:
    """Return how many generations are under way, None while nobody says so."""
    try:
        return scraped(url)["minivault_requests_in_flight",]
    except httpx.TransportError:
        return None


def test_workers_that_share_nothing_say_so(tmp_path: Path) -> None:
    with process([*SERVE, "--workers", "2"], tmp_path / "logs") as service:
        answer = CLIENT.get(f"{service.url}/metrics")
        assert answer.status_code == 503
        assert "PROMETHEUS_MULTIPROC_DIR" in answer.json()["detail"]


@needs_promtool
def test_prometheus_own_check_finds_nothing_wrong(live: Process) -> None:
    assert ask(live.url, "/stream") == 200
    text = CLIENT.get(f"{live.url}/metrics").text
    ours = [part for part in text.split("# HELP ") if part.startswith(("minivault", "gen_ai"))]
    lines = "".join(f"# HELP {part}" for part in ours)
    command = ["promtool", "check", "metrics"]
    done = subprocess.run(command, input=lines, text=True, capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.skipif(not PROMETHEUS, reason="there is no prometheus")
def test_prometheus_scrapes_it(live: Process, tmp_path: Path) -> None:
    assert ask(live.url, "/stream") == 200
    configuration = tmp_path / "prometheus.yml"
    target = live.url.removeprefix("http://")
    configuration.write_text(
        "scrape_configs: [{job_name: minivault, scrape_interval: 1s, static_configs: "
        f"[{{targets: ['{target}']}}]}}]"
    )
    port = free_port()
    command = [
        str(PROMETHEUS),
        f"--config.file={configuration}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (tmp_path / "prometheus.txt").open("wb") as output:
        prometheus = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        query = {"query": "sum(minivault_requests_total) + sum(minivault_tokens_total)"}

        def value() -> float | None:
            try:
                answer = CLIENT.get(f"http://127.0.0.1:{port}/api/v1/query", params=query)
                return float(answer.json()["data"]["result"][0]["value"][1])
            except (httpx.TransportError, LookupError, ValueError):
                return None

        (entry,) = read_log(live.log_dir)
        assert eventually(value) == 1 + entry["prompt_tokens"] + entry["response_tokens"]
    finally:
        prometheus.terminate()
        prometheus.wait(DEADLINE)
