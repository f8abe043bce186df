"""Picture of what compacts keep: right answers over those with the text, by how much shorter they are."""

from __future__ import annotations

import math
import statistics
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 70, 190, 30, 50
COLOURS = {
    "distil": "#0b57d0",
    "match": "#6a3fb5",
    "summary": "#8a5a00",
    "first tokens": "#b3261e",
}
_LABEL_GAP = 16


def plot(rows: list[dict[str, Any]]) -> str:
    """An SVG; how much shorter on a logarithmic scale, the text as 1."""
    shown = [row for row in rows if row["part"] == "quality"]
    text = statistics.mean(row["recall"] for row in shown if row["way"] == "text")
    lines = {way: _line(shown, way, text) for way in COLOURS}
    lines = {way: points for way, points in lines.items() if points}
    high = max([1.0, *(y for points in lines.values() for _, y in points)]) * 1.1
    most = max(x for points in lines.values() for x, _ in points)

    def at(point: tuple[float, float]) -> tuple[float, float]:
        share = math.log2(point[0]) / math.log2(most)
        x = LEFT + (WIDTH - LEFT - RIGHT) * share
        return round(x, 1), round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * point[1] / high, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for tick in [step / 4 for step in range(int(high * 4) + 1)]:
        _, y = at((1, tick))
        colour = "#5f6368" if tick == 1 else "#ddd"
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="{colour}"/>'
        )
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{tick:.0%}</text>')
    for ratio in sorted({round(x) for points in lines.values() for x, _ in points}):
        x, _ = at((ratio, 0))
        parts.append(f'<text x="{x}" y="{HEIGHT - 28}" text-anchor="middle">{ratio} \u00d7</text>')
    parts.append(
        f'<text x="{LEFT}" y="{HEIGHT - 8}">times shorter than the text; right answers over those with the '
        "text</text>"
    )
    taken = -math.inf
    for way in sorted(lines, key=lambda each: at(lines[each][-1])[1]):
        points = [at(point) for point in lines[way]]
        path = " ".join(f"{x},{y}" for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{COLOURS[way]}" stroke-width="2"/>'
        )
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{COLOURS[way]}"/>' for x, y in points]
        taken = max(points[-1][1] + 4, taken + _LABEL_GAP)
        parts.append(
            f'<text x="{WIDTH - RIGHT + 12}" y="{taken}" fill="{COLOURS[way]}">{escape(way)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _line(rows: list[dict[str, Any]], way: str, text: float) -> list[tuple[float, float]]:
    """(times shorter, recall over that with the text), means over the memories, the least first."""
    of_way = [row for row in rows if row["way"] == way]
    found = []
    for ratio in sorted({round(row["times_shorter"]) for row in of_way}):
        same = [row for row in of_way if round(row["times_shorter"]) == ratio]
        shorter = statistics.mean(row["times_shorter"] for row in same)
        found.append((shorter, statistics.mean(row["recall"] for row in same) / text))
    return found
