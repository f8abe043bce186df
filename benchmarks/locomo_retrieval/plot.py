"""Picture of evidence recall by injected tokens: a line per chunk size, a point per k."""

from __future__ import annotations

import math
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 60, 130, 20, 50
COLOURS = {"turn": "#146c2e", 128: "#0b57d0", 256: "#8a5a00", 512: "#b3261e"}


def plot(rows: list[dict[str, Any]]) -> str:
    """Render an SVG; tokens on a logarithmic scale, recall in percent."""
    tokens = [row["injected_tokens"] for row in rows]
    low, high = math.log2(min(tokens)), math.log2(max(tokens))

    def x(value: float) -> float:
        share = (math.log2(value) - low) / max(high - low, 1e-9)
        return LEFT + (WIDTH - LEFT - RIGHT) * share

    def y(recall: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * recall

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for percent in range(0, 101, 20):
        at = y(percent / 100)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4}" text-anchor="end">{percent} %</text>')
    for power in range(math.ceil(low), math.floor(high) + 1):
        parts.append(
            f'<text x="{x(2.0**power)}" y="{HEIGHT - 28}" text-anchor="middle">{2**power}</text>'
        )
    parts.append(
        f'<text x="{LEFT}" y="{HEIGHT - 8}">tokens injected; share of the evidence among them; '
        "k at each point</text>"
    )
    for size, colour in COLOURS.items():
        line = [row for row in rows if row["chunk_tokens"] == size]
        if line:
            places = [(x(row["injected_tokens"]), y(row["evidence_recall"])) for row in line]
            parts.extend(_line(line, places, size, colour))
    return "\n".join([*parts, "</svg>", ""])


def _line(
    rows: list[dict[str, Any]], places: list[tuple[float, float]], size: object, colour: str
) -> list[str]:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for row, (x, y) in zip(rows, places, strict=True):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{y - 7:.1f}" text-anchor="middle" font-size="10">{row["k"]}</text>'
        )
    name = "a turn" if size == "turn" else f"{size} tokens"
    x, y = places[-1]
    parts.append(f'<text x="{x + 8:.1f}" y="{y + 4:.1f}" fill="{colour}">{name}</text>')
    return parts
