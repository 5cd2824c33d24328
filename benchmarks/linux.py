"""What Linux tells about processes: whose they are, what they computed, what they hold."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES = set(CORES[-1:])
LOAD_CORES = set(CORES) - SERVER_CORES or SERVER_CORES


def family(pid: int) -> list[int]:
    """Return the process and its descendants: a server's workers are its own."""
    pids = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                pids += family(int(child))
    return pids


def cpu_seconds(pid: int) -> float:
    """Return the CPU time, user and system, of the process and its descendants.

    A process's clock (clock_getcpuclockid(3)) counts nanoseconds where /proc/<pid>/stat counts
    hundredths of a second.
    """
    return sum(time.clock_gettime_ns(~member << 3 | 2) for member in family(pid)) / 1e9


def memory_growth(pid: int) -> Callable[[], int]:
    """Return what tells by how many bytes the process and its descendants grew since, at most."""
    members = family(pid)

    def held(name: str) -> int:
        texts = [Path(f"/proc/{member}/status").read_text() for member in members]
        return sum(int(text.split(f"{name}:")[1].split()[0]) for text in texts) * 1024

    for member in members:
        Path(f"/proc/{member}/clear_refs").write_text("5")  # the peak starts anew from here
    before = held("VmRSS")
    return lambda: held("VmHWM") - before


def busy_seconds() -> tuple[float, float]:
    """Return how long all processes of the machine have computed, and its hypervisor instead."""
    user, nice, system, _, _, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / ticks, steal / ticks
