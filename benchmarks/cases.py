"""The cases of the benchmark: which load goes to which servers, and how often."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from measure import Load, Sample, Say, measure, rounds
from processes import resident_bytes
from servers import Starter, Target, litellm_folder, litellm_program, nginx_program

STRAIGHT, NGINX, MINIVAULT = "straight to Ollama", "nginx", "MiniVault"
LOG_OFF, SSE, NDJSON = "MiniVault, log off", "MiniVault, SSE", "MiniVault, NDJSON"
OBVIOUS, LITELLM = "the obvious way", "LiteLLM"


@dataclass(frozen=True)
class Case:
    """One load, put on several servers in turn."""

    key: str
    load: Load
    targets: tuple[str, ...]
    rounds: int
    quick_tokens: int
    quick_rounds: int = 1
    quick_repeat: int = 1
    not_quick: tuple[str, ...] = ()
    """Servers that a quick look leaves out here, since they take long over it."""


CASES = (
    Case(
        "100 streams × 40 tokens/s",
        Load(100, tokens=200, pace=40, opening=1),
        (NGINX, MINIVAULT, SSE, NDJSON, OBVIOUS, LITELLM),
        rounds=5,
        quick_tokens=60,
        quick_rounds=2,
    ),
    Case(  # more rounds: the difference is smaller than that between two rounds
        "100 streams × 40 tokens/s, the log on and off",
        Load(100, tokens=200, pace=40, opening=1),
        (MINIVAULT, LOG_OFF),
        rounds=10,
        quick_tokens=60,
        quick_rounds=3,
    ),
    Case(
        "200 streams × 50 tokens/s",
        Load(200, tokens=200, pace=50, opening=1),
        (NGINX, MINIVAULT, OBVIOUS, LITELLM),
        rounds=3,
        quick_tokens=100,
        not_quick=(OBVIOUS, LITELLM),
    ),
    Case(
        "200 streams × 50 tokens/s, opened at the same moment",
        Load(200, tokens=200, pace=50),
        (NGINX, MINIVAULT),
        rounds=3,
        quick_tokens=100,
    ),
    Case(
        "32 streams as fast as Ollama can",
        Load(32, tokens=1500),
        (NGINX, MINIVAULT, OBVIOUS, LITELLM),
        rounds=3,
        quick_tokens=300,
    ),
    Case(
        "/generate, 32 at a time",
        Load(32, tokens=200, repeat=10, stream=False),
        (MINIVAULT, OBVIOUS, LITELLM),
        rounds=3,
        quick_tokens=200,
        quick_repeat=3,
    ),
    Case(
        "/generate, one at a time",
        Load(1, tokens=200, repeat=200, stream=False),
        (STRAIGHT, MINIVAULT),
        rounds=5,
        quick_tokens=200,
        quick_rounds=2,
        quick_repeat=50,
    ),
)
MANY = Load(1000, tokens=50, pace=5, opening=2)
QUICK_MANY = Load(1000, tokens=15, pace=5, opening=2)
WARM_UP = Load(20, tokens=20)
QUIET_SECONDS = 5


@dataclass(frozen=True)
class Memory:
    """A wave of 1,000 streams: what MiniVault held before it, at most, and some seconds after."""

    before: int
    peak: int
    after: int
    failures: dict[str, int]

    @property
    def kib_per_stream(self) -> float:
        return (self.peak - self.before) / MANY.streams / 1024

    @property
    def kib_per_stream_kept(self) -> float:
        return (self.after - self.before) / MANY.streams / 1024


@dataclass
class Results:
    """All that was measured."""

    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    memory: list[Memory] = field(default_factory=list)
    """Of a fresh process; a second wave tells whether what the first one left is used again."""
    start_seconds: dict[str, list[float]] = field(default_factory=dict)


class Benchmark:
    """Runs all cases and keeps what they bring in `results`."""

    def __init__(self, folder: Path, *, quick: bool, litellm: bool, say: Say) -> None:
        self.results = Results()
        self._quick = quick
        self._say = say
        self._starter = Starter(folder)
        self._litellm: Path | None = None
        if litellm:
            say(f"LiteLLM is installed into {litellm_folder()}, where it is not there yet")
            self._litellm = litellm_program()

    def run(self) -> None:
        """Measure everything; each case's results are there as soon as it is through."""
        with self._starter.ollama() as straight:
            self._measure_start()
            self._measure_memory()
            with self._targets() as targets:
                for target in [straight, *targets]:
                    measure(target, WARM_UP)
                for case in CASES:
                    self._measure_case(case, [straight, *targets])

    def _measure_start(self) -> None:
        self._time_starts(MINIVAULT, self._starter.minivault, 2 if self._quick else 5)
        if program := self._litellm:
            count = 1 if self._quick else 2
            self._time_starts(LITELLM, lambda: self._starter.litellm(program), count)

    def _time_starts(
        self, name: str, start: Callable[[], AbstractContextManager[Target]], count: int
    ) -> None:
        for number in range(count):
            started = time.monotonic()
            with start():
                seconds = time.monotonic() - started
            self.results.start_seconds.setdefault(name, []).append(seconds)
            self._say(f"start {number + 1} of {count}: {name}: first answer after {seconds:.2f} s")

    def _measure_memory(self) -> None:
        with self._starter.minivault() as target:
            measure(target, WARM_UP)
            for number in range(1 if self._quick else 2):
                before = resident_bytes(target.pid)
                sample = measure(target, QUICK_MANY if self._quick else MANY)
                time.sleep(QUIET_SECONDS)
                after = resident_bytes(target.pid)
                wave = Memory(before, sample.peak_bytes, after, sample.failures)
                self.results.memory.append(wave)
                failed = sum(wave.failures.values())
                self._say(
                    f"1,000 streams × 5 tokens/s, wave {number + 1}: {failed} failed, "
                    f"{wave.kib_per_stream:.0f} KiB a stream, {wave.kib_per_stream_kept:.0f} kept"
                )

    def _measure_case(self, case: Case, targets: list[Target]) -> None:
        load, count, left_out = case.load, case.rounds, ()
        if self._quick:
            load = dataclasses.replace(load, tokens=case.quick_tokens, repeat=case.quick_repeat)
            count, left_out = case.quick_rounds, case.not_quick
        chosen = [t for t in targets if t.name in case.targets and t.name not in left_out]
        self.results.samples[case.key] = rounds(case.key, load, chosen, count, self._say)

    @contextmanager
    def _targets(self) -> Iterator[list[Target]]:
        with ExitStack() as running:
            start = running.enter_context
            minivault = start(self._starter.minivault(MINIVAULT))
            targets = [
                minivault,
                start(self._starter.minivault(LOG_OFF, "app_without_log")),
                dataclasses.replace(minivault, name=SSE, headers={"Accept": "text/event-stream"}),
                dataclasses.replace(
                    minivault, name=NDJSON, headers={"Accept": "application/x-ndjson"}
                ),
                start(self._starter.obvious()),
            ]
            if nginx_program():
                targets.insert(0, start(self._starter.nginx()))
            if self._litellm:
                targets.append(start(self._starter.litellm(self._litellm)))
            yield targets
