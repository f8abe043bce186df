"""Picture of the grid: TTFT by size of memory, one line per way, shortest questions."""

from __future__ import annotations

import math
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 70, 190, 30, 50
COLOURS = {
    "full prefill": "#b3261e",
    "exact, disk": "#8a5a00",
    "exact, RAM": "#0b57d0",
    "near": "#6a3fb5",
    "prefix cache warm": "#146c2e",
    "no memory": "#5f6368",
}


def plot(rows: list[dict[str, Any]]) -> str:
    """An SVG; seconds on a logarithmic scale."""
    shortest = min(row["question_tokens"] for row in rows)
    shown = [row for row in rows if row["question_tokens"] == shortest and row["way"] in COLOURS]
    sizes = list(dict.fromkeys(row["memory"] for row in shown))
    seconds = [row["ttft_s_median"] for row in shown]
    low, high = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))

    def x(name: str) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (sizes.index(name) + 0.5) / len(sizes)

    def y(value: float) -> float:
        share = (math.log10(value) - low) / max(high - low, 1)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{at + 4}" text-anchor="end">{10.0**power:g} s</text>'
        )
    for name in sizes:
        parts.append(f'<text x="{x(name)}" y="{HEIGHT - 28}" text-anchor="middle">{name}</text>')
    parts.append(
        f'<text x="{LEFT}" y="{HEIGHT - 8}">tokens of memory; questions of {shortest} tokens; '
        "median time to first token</text>"
    )
    labels = _labels({way: _line(shown, way)[-1] for way in COLOURS if _line(shown, way)}, y)
    for way, colour in COLOURS.items():
        line = _line(shown, way)
        if not line:
            continue
        points = " ".join(f"{x(row['memory'])},{y(row['ttft_s_median'])}" for row in line)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        for row in line:
            parts.append(
                f'<circle cx="{x(row["memory"])}" cy="{y(row["ttft_s_median"])}" r="3" fill="{colour}"/>'
            )
        parts.append(
            f'<text x="{WIDTH - RIGHT + 6}" y="{labels[way]}" fill="{colour}">{escape(way)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _line(rows: list[dict[str, Any]], way: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["way"] == way]


def _labels(last: dict[str, dict[str, Any]], y: Any) -> dict[str, float]:
    """y of each label, at least a line apart."""
    placed: dict[str, float] = {}
    below = -math.inf
    for way in sorted(last, key=lambda way: y(last[way]["ttft_s_median"])):
        below = max(y(last[way]["ttft_s_median"]) + 4, below + 16)
        placed[way] = below
    return placed
