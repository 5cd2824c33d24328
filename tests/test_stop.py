"""A stop is orderly, shown on real processes and signals."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import DEADLINE, eventually, read_log
from tests.ollama_stand_in import OllamaStandIn, hang, then, tokens
from tests.processes import (
    BIN,
    GRACE,
    ROOT,
    SERVE,
    Process,
    command_line,
    process,
    starting,
    workers,
)

WORKERS = ["--workers", "2"]
FASTAPI_RUN = [str(BIN / "fastapi"), "run", "app.py", "--host", "127.0.0.1"]
FASTAPI_DEV = [str(BIN / "fastapi"), "dev", "app.py", "--no-reload"]


class Client(threading.Thread):
    """A request in the background, and how it ended."""

    def __init__(self, url: str, endpoint: str, accept: str = "*/*") -> None:
        super().__init__()
        self._request = {"url": url + endpoint, "headers": {"accept": accept}}
        self.status = 0
        self.text = ""
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            with httpx.stream(
                "POST", json={"prompt": "Why?"}, timeout=DEADLINE, **self._request
            ) as response:
                self.status = response.status_code
                for text in response.iter_text():
                    self.text += text
        except httpx.TransportError as exc:
            self.error = exc


def with_open_streams(service: Process, ollama: OllamaStandIn) -> tuple[Client, Client, Client]:
    """Open one request of each kind and return them when all are being answered."""
    clients = (
        Client(service.url, "/generate"),
        Client(service.url, "/stream"),
        Client(service.url, "/stream", "text/event-stream"),
    )
    eventually(lambda: len(ollama.requests) == 3)
    eventually(lambda: clients[1].text and clients[2].text)
    return clients


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [[], WORKERS])
def test_what_is_left_after_the_grace_period_is_cancelled_and_logged(
    ollama: OllamaStandIn, tmp_path: Path, signal_number: int, workers: list[str]
) -> None:
    ollama.answer = then("Blue", end=hang)
    command = SERVE + GRACE + workers
    with process(command, tmp_path / "logs", **ollama.environment) as service:
        generate, plain, events = with_open_streams(service, ollama)
        assert service.stop(signal_number) == 0, service.output
        for client in (generate, plain, events):
            client.join(DEADLINE)
        assert (generate.status, "stopping" in generate.text) == (503, True)
        assert isinstance(plain.error, httpx.RemoteProtocolError), "half an answer looked whole"
        assert "event: done" not in events.text
        entries = read_log(service.log_dir)
        assert [entry["status"] for entry in entries] == ["cancelled"] * 3
        assert {entry["error"] for entry in entries} == {"the service stopped"}
        assert {entry["response"] for entry in entries} == {"Blue"}
        assert "Traceback" not in service.output, service.output


@pytest.mark.parametrize("command", [SERVE + ["--timeout-graceful-shutdown", "20"], FASTAPI_RUN])
def test_running_answers_may_finish_within_the_grace_period(
    ollama: OllamaStandIn, tmp_path: Path, command: list[str]
) -> None:
    ollama.answer = tokens(*"abcdefghijklmnop", delay=0.1)
    with process(command, tmp_path / "logs", **ollama.environment) as service:
        clients = with_open_streams(service, ollama)
        assert service.stop(signal.SIGTERM) == 0, service.output
        for client in clients:
            client.join(DEADLINE)
            assert client.status == 200 and client.error is None
        assert [entry["status"] for entry in read_log(service.log_dir)] == ["ok"] * 3
        assert "Traceback" not in service.output, service.output


@pytest.mark.parametrize("command", [FASTAPI_RUN, FASTAPI_DEV])
def test_a_second_interrupt_cancels_and_logs_where_there_is_no_grace_period(
    ollama: OllamaStandIn, tmp_path: Path, command: list[str]
) -> None:
    ollama.answer = then("Blue", end=hang)
    with process(command, tmp_path / "logs", **ollama.environment) as service:
        with_open_streams(service, ollama)
        service.popen.send_signal(signal.SIGINT)
        eventually(lambda: "Waiting for connections to close" in service.output)
        service.stop(signal.SIGINT)
        assert [entry["status"] for entry in read_log(service.log_dir)] == ["cancelled"] * 3


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("waits", [False, True])
def test_two_signals_cancel_and_log_without_a_traceback(
    ollama: OllamaStandIn, tmp_path: Path, first: int, second: int, waits: bool
) -> None:
    ollama.answer = then("Blue", end=hang)
    with process(SERVE + GRACE, tmp_path / "logs", **ollama.environment) as service:
        with_open_streams(service, ollama)
        service.popen.send_signal(first)
        if waits:
            eventually(lambda: "Waiting for connections to close" in service.output)
        assert service.stop(second) == 0, service.output
        assert [entry["status"] for entry in read_log(service.log_dir)] == ["cancelled"] * 3
        assert "Traceback" not in service.output, service.output


@pytest.mark.parametrize("moment", [0.1, 0.3, 0.5, 0.7, 1])
def test_interrupts_in_the_first_second_print_no_traceback(tmp_path: Path, moment: float) -> None:
    with starting(SERVE, tmp_path / "logs") as service:
        time.sleep(moment)  # wherever it is by then
        service.popen.send_signal(signal.SIGINT)
        service.stop(signal.SIGINT)
        assert "Traceback" not in service.output, service.output


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_workers_whose_parent_was_killed_end_as_at_sigterm(
    ollama: OllamaStandIn, tmp_path: Path
) -> None:
    ollama.answer = then("Blue", end=hang)
    with process(SERVE + GRACE + WORKERS, tmp_path / "logs", **ollama.environment) as service:
        with_open_streams(service, ollama)
        left = workers(service.popen.pid)
        assert len(left) == 2
        service.popen.kill()
        service.popen.wait(DEADLINE)
        eventually(lambda: not any(command_line(pid) for pid in left))
        assert [entry["status"] for entry in read_log(service.log_dir)] == ["cancelled"] * 3
        assert "Traceback" not in service.output, service.output


def test_a_stop_while_nothing_happens_is_quick_and_quiet(tmp_path: Path) -> None:
    with process(SERVE, tmp_path / "logs") as service:
        assert service.stop(signal.SIGTERM) == 0
        assert "Traceback" not in service.output


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("MINIVAULT_LLM_SERVICE", "openai", "'stubbed', 'ollama' or 'none'"),
        ("MINIVAULT_IDLE_TIMEOUT", "-1", "greater than or equal to 0"),
        ("OLLAMA_HOST", "host:port", "host:port"),
    ],
)
@pytest.mark.parametrize("command", [SERVE, FASTAPI_RUN, FASTAPI_DEV])
def test_a_bad_setting_stops_the_start_with_one_line(
    tmp_path: Path, command: list[str], name: str, value: str, allowed: str
) -> None:
    environment = {**os.environ, "MINIVAULT_LOG_DIR": str(tmp_path / "logs"), name: value}
    run = subprocess.run(
        [*command, "--port", "0"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert run.returncode != 0
    assert "Traceback" not in run.stdout + run.stderr
    (line,) = [line for line in run.stderr.splitlines() if name in line]
    assert repr(value) in line and allowed in line
    assert not (tmp_path / "logs").exists()
