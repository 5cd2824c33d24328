"""A stop is orderly, shown on real processes and signals."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import DEADLINE, eventually, read_log
from tests.ollama_stand_in import Conversation, OllamaStandIn, hang, then, tokens
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

from tests.ways import connect

ORIGIN = "http://localhost:3000"
WORKERS = ["--workers", "2"]
FASTAPI_RUN = [str(BIN / "fastapi"), "run", "app.py", "--host", "127.0.0.1"]
FASTAPI_DEV = [str(BIN / "fastapi"), "dev", "app.py", "--no-reload"]


class Client(threading.Thread):
    """A request in the background, and how it ended."""

    def __init__(self, url: str, endpoint: str, accept: str = "*/*") -> None:
        super().__init__()
        headers = {"accept": accept, "origin": ORIGIN}
        self._request = {"url": url + endpoint, "headers": headers}
        self.readable_by = ""
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
                self.readable_by = response.headers["access-control-allow-origin"]
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
        assert generate.readable_by == ORIGIN, "a browser would say CORS"
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


def receive_answer(connection: socket.socket) -> bytes:
    """Return an answer with a length, in lower case."""
    data = b""
    while (end := data.lower().find(b"\r\n\r\n")) < 0 or len(data) < end + 4 + length_of(data):
        assert (more := connection.recv(65536)), data
        data += more
    return data.lower()


def length_of(head: bytes) -> int:
    """Return the length of a body, as its head says."""
    match = re.search(rb"content-length: (\d+)", head.lower())
    assert match
    return int(match[1])


def test_answers_say_that_the_connection_closes_once_a_stop_begins(
    tmp_path: Path, ollama: OllamaStandIn
) -> None:
    """That of an answer under way, and of a request that is on its way meanwhile."""
    answering = threading.Event()

    async def wait_for_the_stop(talk: Conversation) -> None:
        answering.set()
        while b"shutting down" not in service.output.lower().encode():
            await asyncio.sleep(0.01)
        await talk.start()
        await talk.done()

    ollama.answer = wait_for_the_stop
    body = b'{"prompt": "Why?"}'
    head = b"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    asks = b"POST /generate HTTP/1.1\r\n" + head % len(body) + body
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with process(SERVE, tmp_path / "logs", **ollama.environment) as service:
        with connect(service.url) as idle, connect(service.url) as busy:
            idle.sendall(health)
            assert b"connection: close" not in receive_answer(idle)
            busy.sendall(asks)
            assert answering.wait(DEADLINE)
            service.popen.send_signal(signal.SIGTERM)
            eventually(lambda: "shutting down" in service.output.lower())
            idle.sendall(health)
            for connection in (idle, busy):
                answer = receive_answer(connection)
                assert answer.startswith(b"http/1.1 200") and b"connection: close" in answer
                assert connection.recv(1) == b""
        assert service.popen.wait(DEADLINE) == 0


def test_a_restart_on_the_same_socket_fails_no_request(tmp_path: Path) -> None:
    """The new process first, then the end of the old one, while clients keep connections."""
    counts = Counter[str]()
    stop = threading.Event()

    def ask(url: str) -> None:
        with httpx.Client(base_url=url, timeout=DEADLINE) as client:
            while not stop.is_set():
                try:
                    answer = client.post("/generate", json={"prompt": "Why?"})
                    counts[str(answer.status_code)] += 1
                except httpx.TransportError as exc:
                    counts[repr(exc)] += 1

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(8) as pool:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        services = [serve_on(listener, tmp_path / "logs")]
        try:
            list(map(lambda _: pool.submit(ask, url), range(8)))
            while counts["200"] < 1000 and counts.total() == counts["200"]:
                services.append(serve_on(listener, tmp_path / "logs"))
                services[-2].send_signal(signal.SIGTERM)
                assert services[-2].wait(DEADLINE) == 0
        finally:
            stop.set()
            services[-1].send_signal(signal.SIGTERM)
    assert services[-1].wait(DEADLINE) == 0
    assert counts.keys() == {"200"} and counts["200"] >= 1000 and len(services) > 2
    assert len(read_log(tmp_path / "logs")) == counts["200"]


def serve_on(listener: socket.socket, log_dir: Path) -> "subprocess.Popen[bytes]":
    """Start a service on a listening socket, and wait until it serves."""
    with tempfile.NamedTemporaryFile("w+") as output:
        service = subprocess.Popen(
            [*SERVE, "--fd", str(listener.fileno()), "--no-access-log"],
            cwd=ROOT,
            env={**os.environ, "MINIVAULT_LOG_DIR": str(log_dir), "MINIVAULT_STUB_DELAY": "0"},
            pass_fds=[listener.fileno()],
            stderr=output,
        )
        eventually(lambda: "MiniVault is running" in Path(output.name).read_text())
    return service


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
