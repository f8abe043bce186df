"""The table of a bundle's first question, in docs/benchmarks.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import table_of


def arrival(record: Mapping[str, Any]) -> str:
    rows, headline = record["rows"], record["headline"]
    prompt = statistics.median(row["first_prompt"] for row in rows)
    computed = statistics.median(row["first_prompt"] - row["first_cached"] for row in rows)
    lines = [
        ["a later question (the limit)", "1.00"],
        [
            "**the first question**, its KV built behind the approval",
            f"{headline['first_over_warm']:.2f}",
        ],
        [
            "the same text, pasted by the client for the first time",
            f"{headline['cold_over_warm']:.2f}",
        ],
        ["no memory", f"{headline['none_over_warm']:.2f}"],
    ]
    note = (
        f"Prompts of {prompt:.0f} tokens, of which the first question computes {computed:.0f}; the KV is stored "
        f"{headline['build_seconds']:.1f} s after the approval. Ratios within one repetition, median of {len(rows)}."
    )
    return (
        f"{table_of(['TTFT of a question to a new bundle', 'over a later one'], lines)}\n\n{note}"
    )
