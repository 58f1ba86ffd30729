"""Plots as SVG, by hand: small enough to read as text, and legible on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

STYLE = """<style>
text { font: 12px sans-serif; fill: #57606a; }
.title { font-weight: bold; }
.grid { stroke: #8b949e; stroke-opacity: .35; }
.ours { fill: #2f81f7; } .theirs { fill: #8b949e; }
.line { fill: none; stroke-width: 2; }
@media (prefers-color-scheme: dark) { text { fill: #adb5bd; } }
</style>"""

COLOURS = ("#2f81f7", "#8250df", "#8b949e", "#bf8700", "#1a7f37")
"""Of lines, in order: each has contrast to white and to black."""


def log_bars(title: str, unit: str, values: Mapping[str, float], ours: str) -> str:
    """Return a bar for each of *values*, the shortest first; the one named *ours* stands out."""
    left, width, row, top = 210, 420, 24, 60
    low, high = _decades([*values.values(), min(values.values()) / 2])  # so that the shortest is to be seen, too
    body: list[str] = []

    def x(value: float) -> float:
        return left + width * (math.log10(value) - low) / (high - low)

    height = top + row * len(values) + 10
    for decade in range(low, high + 1):
        at = x(10.0**decade)
        body.append(f'<line class="grid" x1="{at:.1f}" y1="{top - 6}" x2="{at:.1f}" y2="{height - 8}"/>')
        body.append(f'<text x="{at:.1f}" y="{top - 12}" text-anchor="middle">{_short(10.0**decade)}</text>')
    for number, (name, value) in enumerate(sorted(values.items(), key=lambda one: one[1])):
        y = top + row * number
        kind = "ours" if name == ours else "theirs"
        body.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        body.append(f'<rect class="{kind}" x="{left}" y="{y + 2}" width="{x(value) - left:.1f}" height="16" rx="2"/>')
        body.append(f'<text x="{x(value) + 6:.1f}" y="{y + 14}">{_short(value)}</text>')
    return _page(left + width + 70, height, f"{title} ({unit}, logarithmic)", body)


def log_lines(title: str, across: str, unit: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return a line for each of *lines*, points of x and y, on logarithmic scales."""
    left, width, top, height = 56, 430, 46, 260
    west, east = _decades(x for points in lines.values() for x, _ in points)
    low, high = _decades(y for points in lines.values() for _, y in points)
    body: list[str] = []

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + width * (math.log10(x) - west) / (east - west),
            top + height * (high - math.log10(y)) / (high - low),
        )

    for decade in range(west, east + 1):
        x, bottom = place(10.0**decade, 10.0**low)
        body.append(f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom:.1f}"/>')
        body.append(f'<text x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{10**decade:,}</text>')
    for decade in range(low, high + 1):
        x, y = place(10.0**west, 10.0**decade)
        body.append(f'<line class="grid" x1="{x:.1f}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}"/>')
        body.append(f'<text x="{x - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{_short(10.0**decade)}</text>')
    body.append(f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">{escape(across)}</text>')
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in points)
        body.append(f'<polyline class="line" stroke="{colour}" points="{path}"/>')
        y = top + 14 + 20 * number
        body.append(f'<rect x="{left + width + 16}" y="{y - 9}" width="12" height="10" fill="{colour}"/>')
        body.append(f'<text x="{left + width + 34}" y="{y}">{escape(name)}</text>')
    return _page(left + width + 210, top + height + 50, f"{title} ({unit}, logarithmic)", body)


def _page(width: int, height: int, title: str, body: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    name = f'<title>{escape(title)}</title>\n<text class="title" x="8" y="18">{escape(title)}</text>'
    return "\n".join([head, STYLE, name, *body, "</svg>\n"])


def _decades(values: object) -> tuple[int, int]:
    """Return the powers of ten around *values*."""
    found = [value for value in values if value > 0]  # type: ignore[attr-defined]
    low = math.floor(math.log10(min(found)))
    return low, max(low + 1, math.ceil(math.log10(max(found))))


def _short(value: float) -> str:
    """Return microseconds as people read them."""
    if value >= 1e6:
        return f"{value / 1e6:.3g} s"
    if value >= 1e3:
        return f"{value / 1e3:.3g} ms"
    return f"{value:.3g} us"
