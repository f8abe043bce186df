"""Tables of compacts: speed, and quality by number of places."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.compact.speed import CACHED, LOADED, NONE, WARM
from benchmarks.markdown import table_of

WAYS = {
    WARM: "the text, in vLLM's prefix cache, warm",
    LOADED: "**a compact, from shared memory**",
    CACHED: "**a compact, in the prefix cache, warm**",
    NONE: "no memory",
}
KINDS = {
    "text": "the text (1 \u00d7)",
    "match": "**match**, attention matching",
    "distil": "**distil**, trained",
    "first tokens": "KV of its first tokens",
    "summary": "a summary by the model, as text",
    "no memory": "no memory",
}


def compact(record: Mapping[str, Any]) -> str:
    return "\n\n".join((_speed(record), _quality(record), _notes(record)))


def _speed(record: Mapping[str, Any]) -> str:
    rows = [row for row in record["rows"] if row["part"] == "speed"]
    sizes = list(dict.fromkeys(row["memory"] for row in rows))
    found = {(row["way"], row["memory"]): row for row in rows}
    lines = [
        [
            label,
            *(f"{found[way, size]['ttft_over_warm']:.2f}" for size in sizes),
            *(f"{found[way, size]['decode_speed_over_warm']:.2f}" for size in sizes),
        ]
        for way, label in WAYS.items()
    ]
    columns = [
        "Over the warm text, by tokens of memory",
        *(f"TTFT, {size}" for size in sizes),
        *(f"tokens/s, {size}" for size in sizes),
    ]
    return table_of(columns, lines)


def _quality(record: Mapping[str, Any]) -> str:
    rows = [row for row in record["rows"] if row["part"] == "quality"]
    lines = []
    for way, label in KINDS.items():
        of_way = [row for row in rows if row["way"] == way]
        for ratio in sorted({round(row.get("times_shorter", 0)) for row in of_way}):
            same = [row for row in of_way if round(row.get("times_shorter", 0)) == ratio]
            lines.append(
                [
                    label,
                    f"{ratio} \u00d7" if ratio > 1 else "",
                    f"{100 * statistics.mean(row['recall'] for row in same):.0f} %",
                    _mean(same, "kl", 3),
                    _mean(same, "kl_unrelated", 3),
                    _mean(same, "seconds", 0) if way in ("match", "distil") else "",
                ]
            )
    columns = ["In the prompt", "shorter", "right answers", "KL", "KL, other subjects", "seconds"]
    return table_of(columns, lines)


def _mean(rows: Sequence[Mapping[str, Any]], name: str, digits: int) -> str:
    values = [row[name] for row in rows if name in row]
    return f"{statistics.mean(values):.{digits}f}" if values else ""


def _notes(record: Mapping[str, Any]) -> str:
    made = [row for row in record["rows"] if row.get("way") == LOADED]
    sizes = "; ".join(
        f"{row['memory']}: {row['tokens']} tokens in {row['places']} places, {row['bytes'] / 1e6:.1f} MB, made by "
        f"matching in {row['seconds_to_make']:.0f} s"
        for row in made
    )
    together = "; ".join(
        f"{row['compacts']} compacts at {row['times_shorter']:g} \u00d7 in one prompt: "
        f"{100 * row['recall']:.0f} % right, with all the text {100 * row['recall_text']:.0f} %"
        for row in record["rows"]
        if row["part"] == "together"
    )
    return (
        f"Speed: {sizes}; ratios within one repetition, median of {record['config']['repetitions']}. Quality: facts "
        f"that the model cannot know, three for each subject, questions in words that were not trained; KL of "
        f"right answers from the distribution with the whole text; distillation takes {record['config']['steps']} "
        f"steps. {together}.{_parts(record)}"
    )


def _parts(record: Mapping[str, Any]) -> str:
    """How a record was put together that no single run has measured."""
    parts = record["config"].get("put_together")
    return f" The record is put together {parts}." if parts else ""
