"""Child processes: started on a core of their own, measured from outside, ended with certainty.

Linux only: CPU time comes from each process's clock, memory from /proc.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
PINNED = len(CORES) > 1
SERVER_CORES = set(CORES[-1:]) if PINNED else set(CORES)
LOAD_CORES = set(CORES) - SERVER_CORES or set(CORES)
STOP_SECONDS = 10


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def busy_seconds() -> tuple[float, float]:
    """Return how long all processes of the machine have computed, and its hypervisor instead.

    Measured around a run they say how quiet the machine was.
    """
    user, nice, system, _, _, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / ticks, steal / ticks


def family(pid: int) -> list[int]:
    """Return the process and its descendants."""
    pids = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                pids += family(int(child))
    return pids


def cpu_seconds(pid: int) -> float:
    """Return the CPU time, user and system, of all threads of the process and its descendants.

    A process's clock (clock_getcpuclockid(3)) counts nanoseconds where /proc/<pid>/stat counts
    hundredths of a second.
    """
    return sum(time.clock_gettime_ns(~member << 3 | 2) for member in family(pid)) / 1e9


def resident_bytes(pid: int) -> int:
    """Return the memory that the process and its descendants hold."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in family(pid))
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def child(
    command: list[str], cores: set[int], output: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command on these cores for the length of the block, its output in a file.

    It gets a session of its own, so that Ctrl-C reaches only the benchmark, which then ends it.
    """
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("MINIVAULT_")
    }
    with output.open("wb") as file:
        os.sched_setaffinity(0, cores)  # a child inherits it before its first thread
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**inherited, **(environment or {})},
            )
        finally:
            os.sched_setaffinity(0, LOAD_CORES)
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):  # what is left of its session
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS)
