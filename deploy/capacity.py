"""How many pods carry how many open streams, and which limit is met on the way.

    python deploy/capacity.py [--tokens-per-second 20] [--ollama-streams 8] …

prints the two tables of `deploy/README.md` and `--write` puts them there. What one process costs is
read from the benchmark's results; all else is an argument, with a default that is a guess about
your machines and your prompts until you give your own.
"""

import argparse
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
README = HERE / "README.md"
RESULTS = HERE.parent / "benchmarks" / "results" / "results.json"
CASE = "100 streams × 40 tokens/s"
WAVES = "1,000 streams × 5 tokens/s"
IDLE_BYTES = 72 * 2**20  # VmRSS of a process that has answered once, Python 3.11 on Linux

STEPS = (100, 1_000, 10_000, 100_000, 1_000_000)
DAY = 86_400
GIB, KIB = 2**30, 2**10
FILES_BESIDE_STREAMS = 64
EPHEMERAL_PORTS = 28_232  # net.ipv4.ip_local_port_range, 32768 to 60999
NODES_PER_CLUSTER = 5_000  # what Kubernetes is tested with


@dataclass(frozen=True)
class Measured:
    """What the benchmark found for one process."""

    cpu_us: float
    """CPU per streamed token, microseconds, a request's share in it."""
    proxy_cpu_us: float
    """nginx's, which stands for any balancer that passes a stream on token by token."""
    idle_bytes: float
    stream_bytes: float


def measured(results: dict[str, Any]) -> Measured:
    """Read what one process costs from the benchmark's results."""

    def cpu(way: str) -> float:
        samples = results["samples"][CASE][way]
        return float(median(sample["cpu_us_per_token"] for sample in samples))

    first, *_ = results["samples"][WAVES]["MiniVault /stream"]  # the next uses its memory again
    return Measured(
        cpu_us=cpu("MiniVault /stream"),
        proxy_cpu_us=cpu("nginx /api/generate"),
        idle_bytes=IDLE_BYTES,
        stream_bytes=first["kib_per_stream"] * KIB,
    )


@dataclass(frozen=True)
class Plan:
    """What is asked for, and what one pod may use."""

    tokens_per_second: float
    tokens_per_answer: float
    entry_bytes: float
    cpu_share: float
    pod_bytes: float
    open_files: int
    max_concurrency: int
    ollama_streams: int
    gpus_per_node: int
    packet_bytes: float

    def streams_by_cpu(self, cpu_us: float) -> int:
        """Return how many streams `cpu_share` of one core carries."""
        return int(self.cpu_share * 1e6 / (self.tokens_per_second * cpu_us))

    def log_bytes_a_day(self, streams: int) -> float:
        """Return how much log so many streams make when they never pause."""
        answers_per_second = streams * self.tokens_per_second / self.tokens_per_answer
        return answers_per_second * self.entry_bytes * DAY

    def limits(self, one: Measured) -> dict[str, int]:
        """Return how many streams one pod carries, by each thing that limits it."""
        return {
            "CPU": self.streams_by_cpu(one.cpu_us),
            "memory": int((self.pod_bytes - one.idle_bytes) / one.stream_bytes),
            "files": (self.open_files - FILES_BESIDE_STREAMS) // 2,
            "concurrency": self.max_concurrency,
        }


def count(number: float) -> str:
    """Return a number for a table: whole, or with one digit where it is small."""
    return f"{number:,.1f}" if number < 10 and number % 1 else f"{number:,.0f}"


def size(number: float) -> str:
    """Return a number of bytes in the unit in which it is easiest read."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{count(number)} {unit}"
        number /= 1024
    return f"{count(number)} TiB"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, the columns of numbers to the right."""
    rule = ["---:" if re.match(r"[\d,.]+", cell) else "---" for cell in rows[0]]
    lines = [head, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def demand(plan: Plan, one: Measured, streams: int) -> list[str]:
    """Return what so many open streams take, a cell each."""
    tokens = streams * plan.tokens_per_second
    pods = math.ceil(streams / min(plan.limits(one).values()))
    return [
        count(streams),
        count(tokens),
        count(pods),
        count(tokens * one.cpu_us / 1e6),
        size(pods * one.idle_bytes + streams * one.stream_bytes),
        count(2 * streams),
        size(plan.log_bytes_a_day(streams)),
        f"{count(tokens * one.proxy_cpu_us / 1e6)}; {count(tokens * plan.packet_bytes * 8 / 1e6)}",
        count(math.ceil(streams / plan.ollama_streams)),
    ]


def demands(plan: Plan, one: Measured) -> str:
    """Return the table of what each step takes."""
    head = [
        "open streams",
        "tokens/s",
        "MiniVault pods",
        "their cores",
        "their memory",
        "their open files",
        "log a day",
        "balancer: cores; Mbit/s",
        "Ollama pods",
    ]
    return table(head, [demand(plan, one, streams) for streams in STEPS])


def bottlenecks(plan: Plan, one: Measured) -> str:
    """Return the table of limits in the order in which growing load meets them."""
    limits = plan.limits(one)
    pod = min(limits.values())
    cpu, memory, files = limits["CPU"], limits["memory"], limits["files"]
    balancer = plan.streams_by_cpu(one.proxy_cpu_us)
    rows = [
        (plan.ollama_streams, "slots of one Ollama pod", "`OLLAMA_NUM_PARALLEL`, then pods"),
        (plan.max_concurrency, "`MINIVAULT_MAX_CONCURRENCY` of one pod", "the variable, or pods"),
        (
            (1024 - FILES_BESIDE_STREAMS) // 2,
            "1,024 open files of one process, where a shell's or a unit's limit is that low",
            "`ulimit -n`; containerd gives more",
        ),
        (cpu, f"{plan.cpu_share:.0%} of the core of one pod", "pods: the autoscaler adds them"),
        (balancer, f"{plan.cpu_share:.0%} of one core of the balancer", "its cores"),
        (memory, f"{size(plan.pod_bytes)} of memory of one pod", "its limit, or pods"),
        (
            EPHEMERAL_PORTS,
            "ports from one balancer to one pod",
            "only met where the limits above were raised",
        ),
        (files, f"{plan.open_files:,} open files of one pod", "the node's `LimitNOFILE`"),
        (
            1000 * pod,
            "1,000 MiniVault pods: a namespace whose Endpoints are cut off there",
            "EndpointSlices, which Kubernetes' own proxy uses",
        ),
        (
            NODES_PER_CLUSTER * plan.gpus_per_node * plan.ollama_streams,
            f"{NODES_PER_CLUSTER:,} nodes of one cluster, {plan.gpus_per_node} Ollama pods each",
            "clusters",
        ),
    ]
    cells = [[count(streams), what, moves] for streams, what, moves in sorted(rows)]
    return table(["full at", "of", "what moves it"], cells)


def report(plan: Plan, one: Measured) -> str:
    """Return both tables and what they were computed from."""
    limits = plan.limits(one)
    least = min(limits, key=lambda name: limits[name])
    figures = (
        f"One process, measured: {one.cpu_us:.0f} µs of CPU a token, "
        f"{size(one.idle_bytes)} idle, {size(one.stream_bytes)} an open stream; nginx "
        f"{one.proxy_cpu_us:.0f} µs a token. Assumed: {count(plan.tokens_per_second)} tokens/s a "
        f"stream, {count(plan.tokens_per_answer)} tokens and {size(plan.entry_bytes)} of log an "
        f"answer, {plan.cpu_share:.0%} of a core, {plan.ollama_streams} streams an Ollama pod.\n\n"
        f"One pod then carries {limits[least]:,} streams, limited by its {least} "
        f"({', '.join(f'{name} {limit:,}' for name, limit in limits.items())}), and its log grows "
        f"by {size(plan.log_bytes_a_day(limits[least]))} a day."
    )
    return f"{figures}\n\n{demands(plan, one)}\n\n{bottlenecks(plan, one)}"


def arguments() -> argparse.ArgumentParser:
    """Return the parser; its defaults are those of the README's tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    option = parser.add_argument
    option("--results", type=Path, default=RESULTS, help="the benchmark's results")
    option("--tokens-per-second", type=float, default=20, help="of one stream")
    option("--tokens-per-answer", type=float, default=300)
    option("--entry-bytes", type=float, default=2500, help="a line of the log, on average")
    option("--cpu-share", type=float, default=0.6, help="of a core; the autoscaler's target")
    option("--pod-bytes", type=float, default=GIB, help="a pod's memory limit")
    option("--open-files", type=int, default=2**20, help="a process's limit")
    option("--max-concurrency", type=int, default=1024, help="MINIVAULT_MAX_CONCURRENCY")
    option("--ollama-streams", type=int, default=8, help="that one Ollama pod answers at a time")
    option("--gpus-per-node", type=int, default=8, help="an Ollama pod has one")
    option("--packet-bytes", type=float, default=90, help="a token on the wire, headers included")
    option("--write", action="store_true", help="put the tables into deploy/README.md")
    return parser


def filled(readme: str, tables: str) -> str:
    """Return the README with these tables between its two marks."""
    marks = re.compile(r"(<!-- capacity -->\n).*(<!-- /capacity -->)", re.DOTALL)
    return marks.sub(lambda found: f"{found[1]}\n{tables}\n\n{found[2]}", readme)


def main() -> None:
    """Print the tables, or write them."""
    options = vars(arguments().parse_args())
    write, results = options.pop("write"), options.pop("results")
    tables = report(Plan(**options), measured(json.loads(results.read_text())))
    if write:
        README.write_text(filled(README.read_text(), tables))
    else:
        print(tables)


if __name__ == "__main__":
    main()
