"""The table of the console's pages, in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import table_of


def console_pages(record: Mapping[str, Any]) -> str:
    lines = [
        [row["page"], f"{row['median_ms']:.0f}", f"{row['worst_ms']:.0f}", f"{row['bytes']:,}"]
        for row in sorted(record["rows"], key=lambda row: -row["median_ms"])
    ]
    config, headline = record["config"], record["headline"]
    note = (
        f"{config['people']} people, {config['cubes']:,} cubes. {headline['pages_over_goal']} of {len(lines)} pages are "
        f"over the goal of 300 ms in the median."
    )
    return f"{table_of(['Page', 'median, ms', 'worst, ms', 'bytes'], lines)}\n\n{note}"
