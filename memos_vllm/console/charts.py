"""Geometry of charts that the server draws as SVG; a table beside each has the figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

BAR_WIDTH = 120.0
CHART_WIDTH, CHART_HEIGHT = 720.0, 180.0
_MOST_GAP = 4.0


@dataclasses.dataclass(frozen=True, slots=True)
class Bar:
    """One horizontal bar, in pixels of a box that is BAR_WIDTH wide."""

    width: float
    is_negative: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One rectangle of a stacked column."""

    series: str
    x: float
    y: float
    width: float
    height: float


@dataclasses.dataclass(frozen=True, slots=True)
class Chart:
    """Stacked columns, oldest first."""

    parts: list[Part]
    series: list[str]
    highest: float
    width: float = CHART_WIDTH
    height: float = CHART_HEIGHT


def bar(value: float, full: float) -> Bar:
    """A bar of a value; `full` fills the box, and so does what is more."""
    share = abs(value) / full if full > 0 else 0.0
    return Bar(round(BAR_WIDTH * min(share, 1.0), 1), value < 0)


def stacked(columns: Sequence[Mapping[str, float]], series: Sequence[str]) -> Chart:
    """Columns of stacked parts.

    Args:
        columns: a value for each series, oldest first; an absent one is 0.
        series: names, from the bottom.
    """
    highest = max((sum(column.values()) for column in columns), default=0.0)
    parts: list[Part] = []
    if not columns or highest <= 0:
        return Chart(parts, list(series), highest)
    step = CHART_WIDTH / len(columns)
    width = max(step - min(_MOST_GAP, step / 3), 0.5)
    for place, column in enumerate(columns):
        top = CHART_HEIGHT
        for name in series:
            height = CHART_HEIGHT * column.get(name, 0.0) / highest
            if height > 0:
                top -= height
                x = place * step + (step - width) / 2
                parts.append(Part(name, *(round(v, 2) for v in (x, top, width, height))))
    return Chart(parts, list(series), highest)
