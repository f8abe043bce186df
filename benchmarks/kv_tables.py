"""README tables of what stands beside the grid: near KV's knee, strangers, work in the background."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import table_of


def borders(record: Mapping[str, Any]) -> str:
    rows, headline = record["rows"], record["headline"]
    (floor,) = (row for row in rows if row["part"] == "floor")
    lines = [["exact, loaded (the engine's own floor)", *_distance(floor), "-"]]
    lines += [
        [
            f"near, the last {row['recomputed_tokens']} tokens of memory recomputed",
            *_distance(row),
            f"{row['ttft_over_prefill_median']:.2f}",
        ]
        for row in rows
        if row["part"] == "knee"
    ]
    header = ["Against a cold full prefill, bfloat16", "mean KL", "median", "same first token"]
    strangers = [row for row in rows if row["part"] == "stranger"]
    note = (
        f"{record['config']['sets']} sets of 2 to 6 of {record['config']['cubes']} cubes in any order. "
        "**Strangers**: a private cube with the very words of somebody else's, whose KV is kept: the first "
        f"token takes {headline['stranger_ttft_over_first_question']:.2f} of the time that it took them when "
        "nothing was kept "
        f"({headline['stranger_ttft_over_second_question']:.1f} of what it takes them now), with at most "
        f"{max(row['cached_tokens_of_stranger'] for row in strangers)} cached tokens; median of "
        f"{len(strangers)} pairs."
    )
    return f"{table_of([*header, 'TTFT over prefill'], lines)}\n\n{note}"


def _distance(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['kl_mean']:.4f}", f"{row['kl_median']:.4f}", f"{row['same']:.0%}"]


def extraction(record: Mapping[str, Any]) -> str:
    rows = {row["while"]: row for row in record["rows"]}
    lines = [[name, f"{row['over_alone']:.2f}"] for name, row in rows.items()]
    note = f"Median of {record['config']['repetitions']} ratios, each inside one repetition."
    return f"{table_of(['First token of a question, while', 'over alone'], lines)}\n\n{note}"
