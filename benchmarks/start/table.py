"""Table of starts: their seconds, and the first turn behind each."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import table_of

_SHOWN = {
    "bare": "vLLM alone",
    "warm": "with memory, ready",
    "restarted": "the same after a restart, the chat goes on",
    "cold": "with memory, without the server's own first chat",
}


def start(record: Mapping[str, Any]) -> str:
    lines = []
    for name, shown in _SHOWN.items():
        rows = [row for row in record["rows"] if row["start"] == name]
        seconds = statistics.median(row["seconds"] for row in rows)
        first, later = "", ""
        if "ttft" in rows[0]:
            first = f"{1000 * statistics.median(row['ttft'][0] for row in rows):,.0f}"
            behind = [ttft for row in rows for ttft in row["ttft"][1:]]
            later = f"{1000 * statistics.median(behind):,.0f}" if behind else ""
        lines.append([shown, f"{seconds:.1f}", first, later])
    headline = record["headline"]
    note = (
        f"Medians of {record['config']['repetitions']} starts each, in turn. Memory adds "
        f"**{headline['seconds_added_to_the_start']:.1f} s** to a start; the first turn takes "
        f"**{headline['first_turn_over_later_ones_warm']:.2f} ×** a later one "
        f"({headline['first_turn_over_later_ones_cold']:.2f} × without the server's own chat), and the turn behind a "
        f"restart **{headline['turn_after_a_restart_over_the_one_before']:.2f} ×** the one before it."
    )
    return (
        f"{table_of(['start', 'seconds', 'first turn, TTFT ms', 'later turns'], lines)}\n\n{note}"
    )
