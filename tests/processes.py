"""A MiniVault in a process of its own, for what only a process shows: signals, crashes, workers."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.conftest import DEADLINE, SETTINGS_OF_THE_MACHINE

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
SERVE = [sys.executable, str(ROOT / "app.py"), "--no-access-log"]
PORTS = (10_000, 32_000)
GRACE = ["--timeout-graceful-shutdown", "1"]
CLIENT = httpx.Client(
    timeout=DEADLINE,
    limits=httpx.Limits(max_keepalive_connections=0),
    verify=False,
    trust_env=False,
)
"""Asks services, each time on a connection of its own: any worker may answer. With all certificates
to load, a client for each request takes 32 ms."""


def free_port() -> int:
    """Return a port that nobody listens on now.

    It is below those that systems give out by themselves: one of these could be another test's, or
    a client's own end, before the service that it was found for listens.
    """
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Process:
    """A running service: its URL and what it printed."""

    def __init__(self, command: list[str], log_dir: Path, **environment: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log_dir = log_dir
        clean = {
            name: value
            for name, value in os.environ.items()
            if not SETTINGS_OF_THE_MACHINE.fullmatch(name) and not name.startswith("COV")
        }
        self._output = log_dir.with_suffix(f".{port}.txt")
        with self._output.open("wb") as output:
            self.popen = subprocess.Popen(
                [*command, "--port", str(port)],
                cwd=ROOT,
                env={**clean, "MINIVAULT_LOG_DIR": str(log_dir), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text()

    def wait_until_up(self) -> None:
        """Return when it serves."""
        end = time.monotonic() + DEADLINE
        while True:
            try:
                CLIENT.get(f"{self.url}/health")
                return
            except httpx.TransportError:
                assert self.popen.poll() is None, self.output
                assert time.monotonic() < end, self.output
                time.sleep(0.02)

    def stop(self, signal_number: int) -> int:
        """Send a signal and return the exit status."""
        self.popen.send_signal(signal_number)
        return self.popen.wait(DEADLINE)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def workers(pid: int) -> list[int]:
    """Return uvicorn's workers among them; its resource tracker is none."""
    return [child for child in children(pid) if b"spawn_main" in command_line(child)]


def command_line(pid: int) -> bytes:
    """Return a process's command line, nothing where it has ended meanwhile."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@contextmanager
def starting(command: list[str], log_dir: Path, **environment: str) -> Iterator[Process]:
    """Start a service without waiting for it; whatever is left of it is killed."""
    service = Process(command, log_dir, **environment)
    try:
        yield service
    finally:
        with suppress(ProcessLookupError):
            os.killpg(service.popen.pid, signal.SIGKILL)
        service.popen.wait(DEADLINE)


@contextmanager
def process(command: list[str], log_dir: Path, **environment: str) -> Iterator[Process]:
    """Run a service for the length of the block; whatever is left of it is killed."""
    with starting(command, log_dir, **environment) as service:
        service.wait_until_up()
        yield service
