"""Table of fairness: TTFT beside a tenant at full load."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import table_of

_PHASES = {
    "alone": "B alone",
    "equal": "A and B with as many streams",
    "beside": "B beside A at full load",
}


def fairness(record: Mapping[str, Any]) -> str:
    rows, headline = record["rows"], record["headline"]
    lines = []
    for phase, shown in _PHASES.items():
        line = [shown]
        for setting in ("off", "on"):
            found = [r for r in rows if (r["phase"], r["fairness"]) == (phase, setting)]
            p50, p95 = (
                1000 * statistics.median(row[f"ttft_{each}"] for row in found)
                for each in ("p50", "p95")
            )
            rates = [
                statistics.median(r[f"{who}_requests_per_second"] for r in found) for who in "ba"
            ]
            line += [f"{p50:,.0f} / {p95:,.0f}", f"{rates[0]:.1f} / {rates[1]:.1f}"]
        lines.append(line)
    ratios = [
        f"{headline[f'ttft_{which}_beside_over_equal_{setting}']:.2f}"
        for setting in ("off", "on")
        for which in ("p50", "p95")
    ]
    lines.append(
        [
            "**full load over as many streams**",
            f"{ratios[0]} / {ratios[1]}",
            "",
            f"**{ratios[2]} / {ratios[3]}**",
            "",
        ]
    )
    head = ["TTFT of B, ms, P50 / P95", "off", "B / A, requests/s", "on", "B / A, requests/s"]
    streams = record["config"]["streams_of_a"]
    note = (
        f"B has {record['config']['streams_of_b']} streams, A {streams['equal']} or {streams['beside']}; each "
        "begins its next request when one has ended. Off: vLLM's order of arrival. Medians of "
        f"{record['config']['repetitions']} repetitions of {record['config']['seconds']:g} s; ratios within one "
        "repetition."
    )
    return f"{table_of(head, lines)}\n\n{note}"
