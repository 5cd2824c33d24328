"""The report of a run: `results.json`, `.md` and `.svg`, with the machine that it ran on."""

import json
import os
import platform
import statistics
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from aims import CROWD, PACED, Rows, failed, spread
from cases import LITELLM, MINIVAULT, NGINX, OBVIOUS, Results
from measure import Sample
from plot import Bar, Panel, plot
from processes import CORES, PINNED, busy_seconds
from servers import HERE, ROOT, litellm_folder, nginx_program

FOLDER = HERE / "results"
PACKAGES = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "httpx")
VERDICTS = {True: "met", False: "**missed**", None: "–"}


def output_of(*command: str) -> str:
    """Return what a command prints, nothing where it fails."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
        return (done.stdout + done.stderr).strip()
    return ""


def machine(*, litellm: bool) -> dict[str, str]:
    """Return what the figures depend on."""
    information = Path("/proc/cpuinfo").read_text()
    models = [line for line in information.splitlines() if line.startswith("model name")]
    versions = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    changed = (
        " with changes" if output_of("git", "status", "--porcelain", "*.py", ":!benchmarks") else ""
    )
    facts = {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "CPU": models[0].partition(": ")[2] if models else platform.machine(),
        "cores": f"{len(CORES)} of {os.cpu_count()}",
        "load average before": f"{os.getloadavg()[0]:.2f}",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "MiniVault": output_of("git", "rev-parse", "--short", "HEAD") + changed,
        "placement": (
            "the process under test on one core, the client and the stand-in on the others"
            if PINNED
            else "nothing pinned"
        ),
    }
    if program := nginx_program():
        facts["nginx"] = output_of(program, "-v").rpartition("/")[2]
    if litellm:
        folder = "lib/*/site-packages/litellm-*.dist-info"
        facts[LITELLM] = ", ".join(
            path.stem.removeprefix("litellm-") for path in litellm_folder().glob(folder)
        )
    return facts


class Bystanders:
    """How much else the machine did between the making of this and the asking."""

    def __init__(self) -> None:
        self._busy, self._stolen = busy_seconds()
        self._own = sum(os.times()[:4])
        self._started = time.monotonic()

    def facts(self) -> dict[str, str]:
        """Return what others took; only children that have ended count as our own."""
        busy, stolen = busy_seconds()
        seconds = time.monotonic() - self._started
        others = busy - self._busy - (sum(os.times()[:4]) - self._own)
        return {
            "other processes meanwhile": f"{max(others, 0) / seconds:.0%} of one core",
            "the hypervisor meanwhile": f"{(stolen - self._stolen) / seconds:.0%} of one core",
            "duration": f"{seconds:.0f} s",
        }


def plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a record for JSON, which knows no NaN."""
    return {name: None if value != value else value for name, value in pairs}


def table(header: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    rows = [header, ("---",) * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def server_line(name: str, samples: list[Sample]) -> tuple[str, ...]:
    """Return one server's line of a case's table."""
    lost = failed(samples)
    return (
        name,
        spread(samples, "cpu_us_per_token").text(".1f"),
        spread(samples, "tokens_per_second").text(",.0f"),
        spread(samples, "requests_per_second").text(",.0f"),
        spread(samples, "first_ms").text(",.1f"),
        spread(samples, "first_p99_ms").text(",.0f"),
        str(lost),
    )


def markdown(results: Results, facts: dict[str, str], command: str) -> str:
    """Return the whole report: the aims, every server's figures, the machine."""
    aims = [(row.what, row.aim, row.measured, VERDICTS[row.met]) for row in Rows(results).rows]
    parts = [
        "# Streams at close to the cost of the wire",
        f"Made by `{command}`. Medians over the rounds, in brackets the lowest and the highest.",
        table(("what", "aim", "measured", ""), aims),
    ]
    header = ("", "CPU µs/token", "tokens/s", "answers/s", "first token ms", "p99 ms", "failed")
    for case, samples in results.samples.items():
        lines = [server_line(name, of_server) for name, of_server in samples.items()]
        parts += [f"## {case}", table(header, lines)]
    parts += ["## The machine", table(("", ""), list(facts.items()))]
    return "\n\n".join(parts) + "\n"


def picture(results: Results, facts: dict[str, str]) -> str:
    """Return the plot: what a token costs, and how long the first one takes."""
    names = (NGINX, MINIVAULT, OBVIOUS, LITELLM)

    def middle(samples: list[Sample], name: str) -> float:
        return statistics.median(getattr(sample, name) for sample in samples)

    paced = {name: results.samples[PACED].get(name) for name in names}
    costs = [
        Bar(name, cost, f"{cost:,.0f} µs", ours=name == MINIVAULT)
        for name, samples in paced.items()
        if samples
        for cost in [middle(samples, "cpu_us_per_token")]
    ]
    crowd = {name: results.samples[CROWD].get(name) for name in names}
    waits = [
        Bar(name, first, f"{first:,.0f} ms, p99 {p99:,.0f}", p99, name == MINIVAULT)
        for name, samples in crowd.items()
        if samples
        for first, p99 in [(middle(samples, "first_ms"), middle(samples, "first_p99_ms"))]
        if first == first
    ]
    return plot(
        "What a gateway in front of Ollama costs",
        f"{facts['CPU']}, {facts['cores']} cores, Python {facts['Python']}, {facts['when'][:10]}; "
        "shorter is better",
        [
            Panel("CPU per streamed token", PACED, costs),
            Panel(
                "Time to the first token: median, and a line to the 99th percentile",
                f"{CROWD}, opened within a second; logarithmic",
                waits,
                dots=True,
            ),
        ],
    )


def write(results: Results, facts: dict[str, str], command: str) -> str:
    """Write the three files and return the Markdown."""
    FOLDER.mkdir(exist_ok=True)
    data = {
        "machine": facts,
        "aims": [asdict(row) for row in Rows(results).rows],
        **asdict(results, dict_factory=plain),
    }
    (FOLDER / "results.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    report = markdown(results, facts, command)
    (FOLDER / "results.md").write_text(report)
    (FOLDER / "results.svg").write_text(picture(results, facts))
    return report
