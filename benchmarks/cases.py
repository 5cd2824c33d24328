"""The cases of the benchmark: which load goes to which servers, and what it costs them."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from linux import cpu_seconds, memory_growth
from load import Job
from servers import BARE, EARLIER, LITELLM, MINIVAULT, NGINX, OBVIOUS, OLLAMA, WITHOUT_LOG
from servers import Server, Starter, nginx_program, question

LOAD_PROGRAM = str(Path(__file__).parent / "load.py")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Way:
    """A server and how it is asked."""

    name: str
    server: str
    path: str
    accept: str = "*/*"
    rounds: int = 99
    """At most so many, as a slow one takes long over each."""


CHAT, COMPLETIONS = "/api/chat", "/v1/chat/completions"
STREAM = Way("MiniVault /stream", MINIVAULT, "/stream")
SSE = Way("MiniVault /stream, SSE", MINIVAULT, "/stream", "text/event-stream")
NDJSON = Way("MiniVault /stream, NDJSON", MINIVAULT, "/stream", "application/x-ndjson")
LOG_OFF = Way("MiniVault /stream, log off", WITHOUT_LOG, "/stream")
EARLIER_STREAM = Way(f"{EARLIER} /stream", EARLIER, "/stream")
GENERATE = Way("MiniVault /generate", MINIVAULT, "/generate")
VAULT_CHAT = Way(f"MiniVault {CHAT}", MINIVAULT, CHAT)
VAULT_COMPLETIONS = Way(f"MiniVault {COMPLETIONS}", MINIVAULT, COMPLETIONS)
PROXY = Way("nginx /api/generate", NGINX, "/api/generate")
PROXY_CHAT = Way(f"nginx {CHAT}", NGINX, CHAT)
PROXY_COMPLETIONS = Way(f"nginx {COMPLETIONS}", NGINX, COMPLETIONS)
BARELY = Way("the bare libraries /api/generate", BARE, "/api/generate")
OBVIOUS_STREAM = Way("the obvious way /stream", OBVIOUS, "/stream", rounds=2)
OBVIOUS_GENERATE = Way("the obvious way /generate", OBVIOUS, "/generate", rounds=2)
LITE = Way(f"LiteLLM {COMPLETIONS}", LITELLM, COMPLETIONS, rounds=2)
STRAIGHT = Way("Ollama /api/generate", OLLAMA, "/api/generate")
STRAIGHT_CHAT = Way(f"Ollama {CHAT}", OLLAMA, CHAT)


@dataclass(frozen=True)
class Load:
    """What is asked for."""

    streams: int
    tokens: int
    pace: int = 0
    """Tokens per second and stream; 0 is as fast as it goes."""
    opening: float = 0
    """Seconds over which the streams are opened."""
    repeat: int = 1
    stream: bool = True
    image: int = 0
    """The size of an image that each request carries, in bytes; a fine stream is read beside it."""

    def quick(self) -> "Load":
        """Return a quarter of it."""
        return replace(self, tokens=max(self.tokens // 4, 2), repeat=-(-self.repeat // 4))


@dataclass(frozen=True)
class Case:
    """One load, put on several servers in turn; they are started anew for it."""

    name: str
    load: Load
    ways: tuple[Way, ...]
    rounds: int = 3


PACED = Case(
    "100 streams × 40 tokens/s",
    Load(100, tokens=160, pace=40, opening=1),
    (
        *(PROXY, PROXY_CHAT, PROXY_COMPLETIONS, VAULT_CHAT, VAULT_COMPLETIONS),
        *(STREAM, SSE, NDJSON, LOG_OFF, EARLIER_STREAM, BARELY, OBVIOUS_STREAM, LITE),
    ),
    rounds=8,
)
CROWD = Case(
    "200 streams × 50 tokens/s", Load(200, tokens=200, pace=50, opening=1), (PROXY, STREAM)
)
RUSH = Case(
    "200 streams × 50 tokens/s, opened at once", Load(200, tokens=200, pace=50), (PROXY, STREAM)
)
MANY = Case(
    "1,000 streams × 5 tokens/s", Load(1000, tokens=50, pace=5, opening=2), (STREAM,), rounds=2
)
FAST = Case(
    "32 streams as fast as Ollama can", Load(32, tokens=1500), (PROXY, STREAM, OBVIOUS_STREAM)
)
LONG = Case(
    "answers of 100,000 tokens, 4 at a time",
    Load(4, tokens=100_000),
    (STREAM, VAULT_CHAT, VAULT_COMPLETIONS),
)
SHORT = Case("answers of 1,000 tokens, 4 at a time", Load(4, tokens=1000, repeat=100), LONG.ways)
IMAGE = Case(
    "an image of 10 MiB, one at a time",
    Load(1, tokens=20, repeat=12, image=10 << 20),
    (STRAIGHT_CHAT, PROXY_CHAT, VAULT_CHAT),
)
WHOLE = Case(
    "/generate of 200 tokens, 32 at a time",
    Load(32, tokens=200, repeat=8, stream=False),
    (GENERATE, OBVIOUS_GENERATE, LITE),
)
SINGLE = Case(
    "/generate of 200 tokens, one at a time",
    Load(1, tokens=200, repeat=200, stream=False),
    (STRAIGHT, GENERATE),
    rounds=5,
)
CASES = (PACED, CROWD, RUSH, MANY, FAST, LONG, SHORT, IMAGE, WHOLE, SINGLE)
WARM_UP = Load(20, tokens=20)
BESIDE = Load(1, tokens=100_000, pace=500)


@dataclass(frozen=True)
class Sample:
    """What came of a load; times in milliseconds."""

    cpu_us_per_token: float
    tokens_per_second: float
    answers_per_second: float
    first_ms: float
    first_p99_ms: float
    total_ms: float
    longest_gap_ms: float
    kib_per_stream: float
    answers: int
    failures: dict[str, int]

    @property
    def failed(self) -> int:
        """How many streams failed."""
        return sum(self.failures.values())


@dataclass
class Results:
    """All that was measured."""

    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    """By case and way, one for each round."""
    skipped: list[str] = field(default_factory=list)
    start_seconds: dict[str, list[float]] = field(default_factory=dict)
    """From the start of a server to its first answer."""


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile, NaN of nothing."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def request(way: Way, port: int, load: Load) -> str:
    """Return the HTTP request, head and body."""
    body = question(way.path, load.tokens, load.pace, stream=load.stream, image=load.image)
    return (
        f"POST {way.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: {way.accept}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )


def measure(way: Way, server: Server, load: Load) -> Sample:
    """Put the load on the server, by a client in a process of its own."""
    job = Job(
        port=server.port,
        request=request(way, server.port, load),
        tokens=load.tokens,
        streams=load.streams,
        opening=load.opening,
        repeat=load.repeat,
        beside=request(way, server.port, BESIDE) if load.image else "",
    )
    cpu, grown = cpu_seconds(server.pid), memory_growth(server.pid)
    done = subprocess.run(
        [sys.executable, LOAD_PROGRAM],
        input=json.dumps(asdict(job)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=2 * job.limit,
    )
    cpu = cpu_seconds(server.pid) - cpu
    report: dict[str, Any] = json.loads(done.stdout)
    return Sample(
        cpu_us_per_token=cpu * 1e6 / (report["tokens"] or float("nan")),
        tokens_per_second=report["tokens"] / report["seconds"],
        answers_per_second=len(report["total_ms"]) / report["seconds"],
        first_ms=percentile(report["first_ms"], 50),
        first_p99_ms=percentile(report["first_ms"], 99),
        total_ms=percentile(report["total_ms"], 50),
        longest_gap_ms=report["longest_gap_ms"],
        kib_per_stream=grown() / load.streams / 1024,
        answers=len(report["total_ms"]),
        failures=report["failures"],
    )


class Benchmark:
    """Runs cases and keeps what they bring in `results`."""

    def __init__(self, starter: Starter, say: Say, *, quick: bool, litellm: bool) -> None:
        self.results = Results()
        self._starter = starter
        self._say = say
        self._quick = quick
        here = {LITELLM: litellm, EARLIER: bool(starter.earlier), NGINX: bool(nginx_program())}
        self._absent = {name for name, is_here in here.items() if not is_here}

    def run(self, case: Case) -> None:
        """Measure all ways of a case in turn, each round beginning with another one."""
        load, rounds = (case.load.quick(), 1) if self._quick else (case.load, case.rounds)
        here = [way for way in case.ways if way.server not in self._absent]
        with ExitStack() as running:
            names = dict.fromkeys(way.server for way in here)
            servers = {name: self._server(running, name) for name in names}
            ways = [way for way in here if self._knows(case, way, servers[way.server])]
            samples = self.results.samples[case.name] = {way.name: [] for way in ways}
            for number in range(rounds):
                for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                    if number < way.rounds:
                        sample = measure(way, servers[way.server], load)
                        samples[way.name].append(sample)
                        self._say(f"{case.name}, round {number + 1}: {way.name}: {words(sample)}")

    def _server(self, running: ExitStack, name: str) -> Server:
        if name == OLLAMA:
            return self._starter.ollama
        server = running.enter_context(self._starter.running(name))
        self.results.start_seconds.setdefault(name, []).append(server.start_seconds)
        return server

    def _knows(self, case: Case, way: Way, server: Server) -> bool:
        """Warm the way up, and return whether it is there at all."""
        if "status 404" not in measure(way, server, WARM_UP).failures:
            return True
        self.results.skipped.append(f"{case.name}: {way.name}: 404, there is no such path")
        self._say(f"skipped: {self.results.skipped[-1]}")
        return False


def words(sample: Sample) -> str:
    """Return a sample as a line of progress."""
    return (
        f"{sample.cpu_us_per_token:.1f} µs of CPU per token, "
        f"{sample.tokens_per_second:,.0f} tokens/s, first token after {sample.first_ms:.1f} ms"
        + (f", {sample.failed} FAILED ({', '.join(sample.failures)})" if sample.failed else "")
    )
