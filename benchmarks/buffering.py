"""Is it worth holding tokens back to save writes? Windows of 0 to 50 ms, at 1, 100 and 400 streams.

`app_with_window.py` holds tokens back for the window; the product does not. The stand-in's tokens
are the times at which they were sent, so the client knows how much later each one arrived.
"""

import json
import statistics
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from measure import Load, Sample, Say, measure, rounds
from plot import Bar, Panel, plot
from report import FOLDER, plain, table
from aims import spread
from servers import Starter

WINDOWS_MS = (0, 5, 10, 25, 50)
STREAMS = (1, 100, 400)
PACE = 40
Measured = dict[int, dict[str, list[Sample]]]


def run(folder: Path, say: Say, *, quick: bool) -> Measured:
    """Measure all windows at all numbers of streams."""
    starter = Starter(folder)
    measured: Measured = {}
    with starter.ollama(), ExitStack() as running:
        targets = [
            running.enter_context(
                starter.minivault(f"{window} ms", "app_with_window", STREAM_WINDOW_MS=str(window))
            )
            for window in WINDOWS_MS
        ]
        for target in targets:
            measure(target, Load(20, tokens=20))
        for streams in STREAMS:
            load = Load(
                streams, tokens=60 if quick else 200, pace=PACE, opening=1, stamp=True, limit=120
            )
            what = f"{streams} streams × {PACE} tokens/s"
            measured[streams] = rounds(what, load, targets, 1 if quick else 3, say)
    return measured


def write(measured: Measured, facts: dict[str, str], command: str) -> str:
    """Write `buffering.json`, `.md` and `.svg`, and return the Markdown."""
    FOLDER.mkdir(exist_ok=True)
    data = {
        "machine": facts,
        "samples": {
            streams: {
                window: [asdict(sample, dict_factory=plain) for sample in samples]
                for window, samples in windows.items()
            }
            for streams, windows in measured.items()
        },
    }
    (FOLDER / "buffering.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    report = markdown(measured, facts, command)
    (FOLDER / "buffering.md").write_text(report)
    (FOLDER / "buffering.svg").write_text(picture(measured, facts))
    return report


def markdown(measured: Measured, facts: dict[str, str], command: str) -> str:
    """Return the table of all windows and the machine."""
    lines = [
        (
            str(streams),
            window,
            spread(samples, "cpu_us_per_token").text(".1f"),
            spread(samples, "reads_per_token").text(".2f"),
            spread(samples, "added_ms").text(".1f"),
            spread(samples, "added_p99_ms").text(".1f"),
        )
        for streams, windows in measured.items()
        for window, samples in windows.items()
    ]
    header = ("streams", "window", "CPU µs/token", "writes/token", "added ms", "added ms, p99")
    return "\n\n".join(
        [
            "# What holding tokens back saves and costs",
            f"Made by `{command}`: {PACE} tokens/s a stream. Medians over the rounds, in brackets "
            "the lowest and the highest. Writes are counted by the client's reads; the added time "
            "runs from Ollama's write of a token to its arrival at the client.",
            table(header, lines),
            "## The machine",
            table(("", ""), list(facts.items())) + "\n",
        ]
    )


def picture(measured: Measured, facts: dict[str, str]) -> str:
    """Return the plot: beside each other what a window saves and what it costs."""
    panels = []
    for streams, windows in measured.items():
        costs, delays = [], []
        for window, samples in windows.items():
            cost = statistics.median(sample.cpu_us_per_token for sample in samples)
            delay = statistics.median(sample.added_ms for sample in samples)
            costs.append(Bar(window, cost, f"{cost:.0f} µs", ours=window == "0 ms"))
            delays.append(Bar(window, delay, f"{delay:.1f} ms", ours=window == "0 ms"))
        who = "1 stream" if streams == 1 else f"{streams} streams"
        panels += [
            Panel(f"{who}: CPU per token", "by the window of buffering", costs),
            Panel(f"{who}: added time per token", "median, from Ollama to the client", delays),
        ]
    caption = f"{facts['CPU']}, {facts['cores']} cores, {PACE} tokens/s a stream"
    return plot("What holding tokens back saves and costs", caption, panels, columns=2)
