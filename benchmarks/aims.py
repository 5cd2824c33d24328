"""The aims, each with what was measured beside it."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cases import (
    QUIET_SECONDS,
    LITELLM,
    LOG_OFF,
    MINIVAULT,
    NDJSON,
    NGINX,
    OBVIOUS,
    SSE,
    STRAIGHT,
    Results,
)
from measure import Sample

PACED, CROWD = "100 streams × 40 tokens/s", "200 streams × 50 tokens/s"
RUSH = "200 streams × 50 tokens/s, opened at the same moment"
FAST = "32 streams as fast as Ollama can"
LOGGED = "100 streams × 40 tokens/s, the log on and off"
GIVEN_BACK = 0.5  # the issue names no figure
WHOLE, SINGLE = "/generate, 32 at a time", "/generate, one at a time"


@dataclass(frozen=True)
class Row:
    """An aim and what became of it; `met` is None where there was nothing to compare with."""

    what: str
    aim: str
    measured: str
    met: bool | None


@dataclass(frozen=True)
class Spread:
    """One figure per round."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def text(self, form: str, unit: str = "") -> str:
        """Return the median and in brackets the range."""
        low, high = min(self.values), max(self.values)
        if len(self.values) == 1:
            return f"{self.median:{form}}{unit}"
        return f"{self.median:{form}}{unit} ({low:{form}} to {high:{form}})"


def compare(
    ours: list[Sample], theirs: list[Sample], figure: Callable[[Sample, Sample], float]
) -> Spread:
    """Compare round by round, so that what drifts between rounds falls out."""
    return Spread([figure(*pair) for pair in zip(ours, theirs, strict=True)])


def cpu_ratio(one: Sample, other: Sample) -> float:
    return one.cpu_us_per_token / other.cpu_us_per_token


def spread(samples: list[Sample], name: str) -> Spread:
    """Return one field of the samples."""
    return Spread([getattr(sample, name) for sample in samples])


def failed(samples: list[Sample]) -> int:
    """Return how many streams failed."""
    return sum(sum(sample.failures.values()) for sample in samples)


class Rows:
    """The rows of the issue's table of aims, in its order."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self.rows = [
            self._cpu(),
            self._timely(CROWD),
            self._timely(RUSH),
            *self._memory(),
            self._fast(),
            *self._whole(),
            self._log(),
            self._format(SSE),
            self._format(NDJSON),
            self._start(),
        ]

    def _samples(self, case: str, name: str) -> list[Sample]:
        return self._results.samples[case].get(name, [])

    def _cpu(self) -> Row:
        what, aim = f"CPU per streamed token, {PACED}, log on", "at most 3 times nginx; try for 2"
        ours, nginx = self._samples(PACED, MINIVAULT), self._samples(PACED, NGINX)
        cost = spread(ours, "cpu_us_per_token").text(".1f", " µs")
        if not nginx:
            return Row(what, aim, f"{cost}; no nginx here", None)
        ratio = compare(ours, nginx, cpu_ratio)
        theirs = spread(nginx, "cpu_us_per_token").text(".1f", " µs")
        measured = f"{ratio.text('.2f', ' times')}: {cost} against {theirs}"
        return Row(what, aim, measured, ratio.median <= 3)

    def _timely(self, case: str) -> Row:
        what = f"{case}, through one process"
        aim = (
            "none lost or late: median total within 3 % of nginx's, first token within 20 ms of "
            "nginx's at the median and 100 ms at p99"
        )
        ours, nginx = self._samples(case, MINIVAULT), self._samples(case, NGINX)
        lost = failed(ours)
        if not nginx:
            first = spread(ours, "first_ms").text(".0f", " ms")
            return Row(what, aim, f"{lost} lost; first token {first}; no nginx here", None)
        total = compare(ours, nginx, lambda a, b: (a.total_ms / b.total_ms - 1) * 100)
        first = compare(ours, nginx, lambda a, b: a.first_ms - b.first_ms)
        p99 = compare(ours, nginx, lambda a, b: a.first_p99_ms - b.first_p99_ms)
        measured = (
            f"{lost} lost; total {total.text('+.1f', ' %')}; first token "
            f"{first.text('+.1f', ' ms')} at the median, {p99.text('+.0f', ' ms')} at p99"
        )
        met = not lost and total.median <= 3 and first.median <= 20 and p99.median <= 100
        return Row(what, aim, measured, met)

    def _memory(self) -> list[Row]:
        first, *later = self._results.memory
        lost = sum(sum(wave.failures.values()) for wave in self._results.memory)
        given_back = 1 - first.kib_per_stream_kept / first.kib_per_stream
        kept = f"{given_back:.0%} given back after {QUIET_SECONDS} s"
        if later:
            kept += f"; a second wave takes {later[0].kib_per_stream:.0f} KiB a stream on top"
        what = "1,000 streams × 5 tokens/s"
        return [
            Row(f"{what}: failures", "none", f"{lost}", not lost),
            Row(
                f"{what}: memory per open stream",
                "at most 64 KiB",
                f"{first.kib_per_stream:.0f} KiB",
                first.kib_per_stream <= 64,
            ),
            Row(
                f"{what}: memory afterwards",
                f"given back, at least {GIVEN_BACK:.0%}",
                kept,
                given_back >= GIVEN_BACK,
            ),
        ]

    def _fast(self) -> Row:
        ours, obvious = self._samples(FAST, MINIVAULT), self._samples(FAST, OBVIOUS)
        ratio = compare(ours, obvious, lambda a, b: a.tokens_per_second / b.tokens_per_second)
        carried = spread(ours, "tokens_per_second").text(",.0f", " tokens/s")
        theirs = spread(obvious, "tokens_per_second").text(",.0f", "")
        measured = f"{ratio.text('.1f', ' times')}: {carried} against {theirs}"
        return Row(
            FAST, "tokens/s at least 10 times the obvious way's", measured, ratio.median >= 10
        )

    def _whole(self) -> list[Row]:
        what, aim = f"{WHOLE}, answers of 200 tokens", "requests/s at least 10 times LiteLLM's"
        name = LITELLM if self._samples(WHOLE, LITELLM) else OBVIOUS
        ours, theirs = self._samples(WHOLE, MINIVAULT), self._samples(WHOLE, name)
        ratio = compare(ours, theirs, lambda a, b: a.requests_per_second / b.requests_per_second)
        carried = spread(ours, "requests_per_second").text(".0f", " requests/s")
        measured = f"{carried}, {ratio.text('.1f', ' times')} {name}'s"
        met = ratio.median >= 10 if name == LITELLM else None
        single, straight = self._samples(SINGLE, MINIVAULT), self._samples(SINGLE, STRAIGHT)
        added = compare(single, straight, lambda a, b: a.total_ms - b.total_ms)
        return [
            Row(what, aim, measured, met),
            Row(
                "/generate, one at a time, answers of 200 tokens: added latency",
                "under 2 ms at the median",
                added.text(".2f", " ms"),
                added.median < 2,
            ),
        ]

    def _log(self) -> Row:
        ours, off = self._samples(LOGGED, MINIVAULT), self._samples(LOGGED, LOG_OFF)
        more = compare(ours, off, lambda a, b: (cpu_ratio(a, b) - 1) * 100)
        aim = "at most 5 % of CPU per streamed token"
        return Row("the log on against off", aim, more.text("+.1f", " %"), more.median <= 5)

    def _format(self, name: str) -> Row:
        ratio = compare(self._samples(PACED, name), self._samples(PACED, MINIVAULT), cpu_ratio)
        what = f"{name.split()[-1]} against plain text"
        aim = "at most 1.5 times the CPU per token"
        return Row(what, aim, ratio.text(".2f", " times"), ratio.median <= 1.5)

    def _start(self) -> Row:
        ours = Spread(self._results.start_seconds[MINIVAULT])
        measured = ours.text(".2f", " s")
        if theirs := self._results.start_seconds.get(LITELLM):
            measured += f"; LiteLLM {Spread(theirs).text('.1f', ' s')}"
        aim = "under 1.5 s on an idle machine, against LiteLLM's in the same run"
        return Row("start to first answer", aim, measured, ours.median < 1.5)
