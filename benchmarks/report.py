"""The report of a run: the headlines, every figure, the machine; as Markdown and JSON."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import cases
from cases import Case, Results, Sample, Way
from linux import CORES, busy_seconds
from servers import LITELLM_FOLDER, MINIVAULT, ROOT, nginx_program

PACKAGES = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "aiohttp", "httpx")
COLUMNS = {
    "cpu_us_per_token": ("CPU µs/token", ",.1f"),
    "tokens_per_second": ("tokens/s", ",.0f"),
    "answers_per_second": ("answers/s", ",.0f"),
    "first_ms": ("first token ms", ",.1f"),
    "first_p99_ms": ("its p99", ",.0f"),
    "total_ms": ("answer ms", ",.1f"),
    "longest_gap_ms": ("longest gap ms", ",.1f"),
    "kib_per_stream": ("KiB/stream", ",.0f"),
}


@dataclass(frozen=True)
class Headline:
    """A figure of one way beside another's, compared round by round so that drift falls out."""

    figure: str
    case: Case
    ours: Way
    theirs: Way
    beside: Case | None = None
    """Their case, where it is not the same."""

    def row(self, results: Results) -> tuple[str, ...] | None:
        """Return a line of the table, None where one of the two was not measured."""
        there = self.beside or self.case
        ours = results.samples.get(self.case.name, {}).get(self.ours.name)
        theirs = results.samples.get(there.name, {}).get(self.theirs.name)
        if not ours or not theirs:
            return None
        name, form = COLUMNS[self.figure]
        mine, other = column(ours, self.figure), column(theirs, self.figure)
        if self.figure.endswith("ms"):
            compared = spread([a - b for a, b in zip(mine, other)], "+.1f") + " ms"
        else:
            compared = spread([a / b for a, b in zip(mine, other)], ".2f") + " times"
        name_there = self.theirs.name + (f", {there.name}" if self.beside else "")
        left = (self.case.name, name, self.ours.name, spread(mine, form))
        return *left, name_there, spread(other, form), compared


CPU = "cpu_us_per_token"
HEADLINES = (
    Headline(CPU, cases.PACED, cases.STREAM, cases.PROXY),
    Headline(CPU, cases.PACED, cases.VAULT_CHAT, cases.PROXY_CHAT),
    Headline(CPU, cases.PACED, cases.VAULT_COMPLETIONS, cases.PROXY_COMPLETIONS),
    Headline(CPU, cases.PACED, cases.VAULT_CHAT, cases.STREAM),
    Headline(CPU, cases.PACED, cases.VAULT_COMPLETIONS, cases.STREAM),
    Headline(CPU, cases.PACED, cases.STREAM, cases.EARLIER_STREAM),
    Headline(CPU, cases.PACED, cases.VAULT_CHAT, cases.EARLIER_STREAM),
    Headline(CPU, cases.PACED, cases.VAULT_COMPLETIONS, cases.EARLIER_STREAM),
    Headline(CPU, cases.PACED, cases.BARELY, cases.PROXY),
    Headline(CPU, cases.PACED, cases.STREAM, cases.BARELY),
    Headline(CPU, cases.PACED, cases.OBVIOUS_STREAM, cases.STREAM),
    Headline(CPU, cases.PACED, cases.LITE, cases.STREAM),
    Headline(CPU, cases.PACED, cases.LITE, cases.VAULT_COMPLETIONS),
    Headline(CPU, cases.PACED, cases.SSE, cases.STREAM),
    Headline(CPU, cases.PACED, cases.NDJSON, cases.STREAM),
    Headline(CPU, cases.PACED, cases.STREAM, cases.LOG_OFF),
    Headline("first_ms", cases.CROWD, cases.STREAM, cases.PROXY),
    Headline("total_ms", cases.CROWD, cases.STREAM, cases.PROXY),
    Headline("first_ms", cases.RUSH, cases.STREAM, cases.PROXY),
    Headline("tokens_per_second", cases.FAST, cases.STREAM, cases.OBVIOUS_STREAM),
    *(Headline(CPU, cases.LONG, way, way, cases.SHORT) for way in cases.LONG.ways),
    Headline("total_ms", cases.IMAGE, cases.VAULT_CHAT, cases.STRAIGHT_CHAT),
    Headline("longest_gap_ms", cases.IMAGE, cases.VAULT_CHAT, cases.PROXY_CHAT),
    Headline("answers_per_second", cases.WHOLE, cases.GENERATE, cases.LITE),
    Headline("total_ms", cases.SINGLE, cases.GENERATE, cases.STRAIGHT),
)


def column(samples: Iterable[Sample], name: str) -> list[float]:
    """Return one figure of the samples."""
    return [getattr(sample, name) for sample in samples]


def spread(values: Sequence[float], form: str) -> str:
    """Return the median, and in brackets the range."""
    middle = f"{statistics.median(values):{form}}"
    few = len(values) == 1
    return middle if few else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def table(header: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ("---",) * len(header), *lines])


def headlines(results: Results) -> str:
    """Return the table of what is worth quoting."""
    rows = [row for headline in HEADLINES if (row := headline.row(results))]
    many = cases.MANY.name, "KiB/stream", cases.STREAM.name
    waves = column(results.samples.get(many[0], {}).get(many[2], []), "kib_per_stream")
    for beside, grown in zip(("", "the next 1,000, on top"), waves):
        rows.append((*many, f"{grown:.0f}", beside, "", ""))
    for name, seconds in results.start_seconds.items():
        if name in (MINIVAULT, cases.LITELLM):
            rows.append(("start to first answer", "s", name, spread(seconds, ".2f"), "", "", ""))
    return table(("case", "figure", "of", "", "beside", "", "compared, by round"), rows)


def markdown(results: Results, facts: dict[str, str], command: str) -> str:
    """Return the whole report."""
    made = "Medians over the rounds, in brackets the lowest and the highest."
    parts = ["# Figures", f"Made by `{command}`. {made}", headlines(results)]
    if results.skipped:
        parts.append("Skipped:\n\n" + "\n".join(f"- {what}" for what in results.skipped))
    for case, ways in results.samples.items():
        names = [name for name in COLUMNS if name != "longest_gap_ms" or case == cases.IMAGE.name]
        lines = [
            (way, *(spread(column(samples, name), COLUMNS[name][1]) for name in names))
            + (str(sum(sample.failed for sample in samples)),)
            for way, samples in ways.items()
        ]
        header = ("", *(COLUMNS[name][0] for name in names), "failed")
        parts += [f"## {case}", table(header, lines)]
    return "\n\n".join([*parts, "## The machine", table(("", ""), facts.items())]) + "\n"


def write(results: Results, facts: dict[str, str], command: str, folder: Path) -> None:
    """Write `results.md` and `results.json`."""
    folder.mkdir(exist_ok=True)
    (folder / "results.md").write_text(markdown(results, facts, command))
    data = {"machine": facts, **asdict(results, dict_factory=rounded)}
    (folder / "results.json").write_text(json.dumps(data, ensure_ascii=False) + "\n")


def rounded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a record for JSON, which knows no NaN, in figures that mean something."""
    floats = {name: value for name, value in pairs if isinstance(value, float)}
    return dict(pairs) | {
        name: None if value != value else round(value, 2) for name, value in floats.items()
    }


def output_of(*command: str) -> str:
    """Return what a command prints, nothing where it fails."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
        return (done.stdout + done.stderr).strip()
    return ""


def versions(*packages: str) -> str:
    """Return the packages that are here, with their versions."""
    here = {dist.name.lower(): dist.version for dist in metadata.distributions()}
    return ", ".join(f"{name} {here[name]}" for name in packages if name in here)


class Machine:
    """What the figures depend on, and how much else the machine did since this was made."""

    def __init__(self) -> None:
        self._busy, self._stolen = busy_seconds()
        self._own = sum(os.times()[:4])
        self._started = time.monotonic()
        self._load = os.getloadavg()[0]

    def facts(self, *packages: str) -> dict[str, str]:
        """Return it as lines of a table; only children that have ended count as our own."""
        busy, stolen = busy_seconds()
        seconds = time.monotonic() - self._started
        others = busy - self._busy - (sum(os.times()[:4]) - self._own)
        cpu = Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2].split("\n")[0]
        changed = output_of("git", "status", "--porcelain", "*.py", ":!benchmarks", ":!tests")
        litellm = [path.stem for path in LITELLM_FOLDER.glob("lib/*/*/litellm-*.dist-info")]
        return {
            "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "CPU": f"{cpu or platform.machine()}, {len(CORES)} of {os.cpu_count()} cores",
            "system": f"Linux {platform.release()}, Python {platform.python_version()}",
            "packages": versions(*(packages or PACKAGES)),
            "beside it": ", ".join([output_of(nginx_program() or "nginx", "-v"), *litellm]),
            "MiniVault": output_of("git", "describe", "--always")
            + (" with changes" * bool(changed)),
            "load average before": f"{self._load:.2f}",
            "other processes meanwhile": f"{max(others, 0) / seconds:.0%} of one core",
            "the hypervisor meanwhile": f"{(stolen - self._stolen) / seconds:.0%} of one core",
            "duration": f"{seconds:.0f} s",
        }
