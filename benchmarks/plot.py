"""The plot: what a token costs, and how long the first one takes."""

import statistics
from pathlib import Path

import matplotlib
from cases import PACED, Results
from matplotlib import pyplot

OURS, OTHERS = "#2563eb", "#9ca3af"
PANELS = {
    "cpu_us_per_token": ("CPU per streamed token, µs", "linear"),
    "first_ms": ("time to the first token, ms", "log"),
}


def draw(results: Results, path: Path) -> None:
    """Draw the paced streams' figures as SVG; nothing where these were not measured."""
    ways = {name: found for name, found in results.samples.get(PACED.name, {}).items() if found}
    if not ways:
        return
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "MiniVault"})
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(11, 4), sharey=True)
    for axis, (figure_name, (title, scale)) in zip(axes, PANELS.items()):
        middles = [
            statistics.median(getattr(sample, figure_name) for sample in samples)
            for samples in ways.values()
        ]
        colors = [OURS if name.startswith("MiniVault") else OTHERS for name in ways]
        if scale == "linear":
            axis.barh(list(ways), middles, color=colors)
        else:  # a bar's length means nothing where the scale has no zero
            axis.scatter(middles, list(ways), color=colors)
        for place, middle in enumerate(middles):
            axis.annotate(f"  {middle:,.0f}", (middle, place), va="center")
        axis.set(title=title, xscale=scale)
        axis.margins(x=0.15)
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.suptitle(f"{PACED.name}: shorter is better")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
