"""Plots as SVG, drawn by hand: panels of bars, or of dots with a line to a higher value."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, MARGIN, TOP = 860, 28, 92
LABEL_WIDTH, VALUE_WIDTH = 0.24, 0.25  # of a panel's width
ROW, PANEL_HEAD, PANEL_FOOT = 30, 56, 18
INK, PALE, OURS, OTHERS = "#1f2937", "#6b7280", "#2563eb", "#9ca3af"


@dataclass(frozen=True)
class Bar:
    """A value with its name; `high` draws a line on to a higher one."""

    label: str
    value: float
    text: str
    high: float = 0
    ours: bool = False


@dataclass(frozen=True)
class Panel:
    """Bars on one scale; `dots` on a logarithmic one, where bars would lie."""

    title: str
    subtitle: str
    bars: Sequence[Bar]
    dots: bool = False


def text(x: float, y: float, words: str, style: str = "", color: str = INK) -> str:
    """Return words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" {style}>{escape(words)}</text>'


def draw_panel(panel: Panel, x: float, y: float, width: float) -> list[str]:
    """Return a panel's elements."""
    parts = [
        text(x, y + 18, panel.title, 'font-size="16" font-weight="600"'),
        text(x, y + 38, panel.subtitle, 'font-size="13"', PALE),
    ]
    left = x + width * LABEL_WIDTH
    room = width * (1 - LABEL_WIDTH - VALUE_WIDTH)
    highest = max(max(bar.value, bar.high) for bar in panel.bars)
    lowest = min(bar.value for bar in panel.bars)

    def place(value: float) -> float:
        if not panel.dots:
            return left + room * value / highest
        decades = math.log10(highest / lowest) or 1
        return left + 8 + (room - 8) * math.log10(value / lowest) / decades

    for number, bar in enumerate(panel.bars):
        middle = y + PANEL_HEAD + ROW * number + ROW / 2
        color = OURS if bar.ours else OTHERS
        weight = 'font-weight="600"' if bar.ours else ""
        at, end = place(bar.value), place(max(bar.value, bar.high))
        parts.append(text(left - 10, middle + 5, bar.label, f'text-anchor="end" {weight}'))
        if panel.dots:
            parts.append(
                f'<line x1="{at:.1f}" y1="{middle}" x2="{end:.1f}" y2="{middle}" '
                f'stroke="{color}" stroke-width="3" stroke-linecap="round"/>'
                f'<circle cx="{at:.1f}" cy="{middle}" r="7" fill="{color}"/>'
            )
        else:
            parts.append(
                f'<rect x="{left}" y="{middle - 10}" width="{max(at - left, 1):.1f}" height="20" '
                f'rx="3" fill="{color}"/>'
            )
        parts.append(text(end + 12, middle + 5, bar.text, weight))
    return parts


def plot(title: str, caption: str, panels: Sequence[Panel], columns: int = 1) -> str:
    """Return panels in a grid as one SVG document."""
    width = (WIDTH - MARGIN * (columns + 1)) / columns
    parts, bottom = [], float(TOP)
    for start in range(0, len(panels), columns):
        line = panels[start : start + columns]
        for column, panel in enumerate(line):
            parts += draw_panel(panel, MARGIN + column * (width + MARGIN), bottom, width)
        bottom += PANEL_HEAD + ROW * max(len(panel.bars) for panel in line) + PANEL_FOOT
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom:.0f}" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" '
        'font-size="14" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{bottom:.0f}" rx="10" fill="#ffffff"/>',
        text(MARGIN, 40, title, 'font-size="21" font-weight="700"'),
        text(MARGIN, 64, caption, 'font-size="13"', PALE),
    ]
    return "\n".join([*head, *parts, "</svg>", ""])
