"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table_of(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines))
