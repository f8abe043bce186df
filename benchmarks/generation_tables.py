"""The README's table of what models answer with memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.markdown import table_of

OURS = "our server's"
WAYS = {
    "memory": "**memory** (what memos_vllm finds)",
    "evidence": "the turns that hold the answer, by the data set's word",
    "full context": "the whole history",
    "nothing": "nothing",
}


def generation(record: Mapping[str, Any]) -> str:
    """A table for each run."""
    return "\n\n".join(
        _run(run, [row for row in record["rows"] if row["run"] == run["run"]])
        for run in record["config"]["runs"]
    )


def _run(run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    by_way: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_way.setdefault(row["way"], {})[row["kind"]] = row
    kinds = list(dict.fromkeys(row["kind"] for row in rows if row["kind"] != "all"))
    lines = [_line(way, mine, kinds) for way, mine in by_way.items()]
    header = [f"{run['model']}, with this in the prompt", "all", "over nothing", *kinds]
    header += ["tokens of prompt", "first token, ms", "whole reply, ms"]
    return f"{table_of(header, lines)}\n\n{_note(run, by_way)}"


def _line(way: str, mine: Mapping[str, Mapping[str, Any]], kinds: list[str]) -> list[str]:
    whole = mine["all"]
    if not whole["questions"]:
        reasons = ", ".join(whole["left_out"]) or "not asked"
        return [WAYS[way], reasons, *("" for _ in kinds), "", "", "", ""]
    name = "judged" if "judged" in whole else "score"
    parts = [_percent(mine[kind].get(name)) if kind in mine else "" for kind in kinds]
    return [
        WAYS[way],
        _with_error(whole, name),
        _with_error(whole, f"{name}_gain") if f"{name}_gain" in whole else "",
        *parts,
        f"{whole['prompt_tokens_mean']:.0f}",
        f"{whole['first_token_ms_median']:.0f}",
        f"{whole['whole_ms_median']:.0f}",
    ]


def _with_error(row: Mapping[str, Any], name: str) -> str:
    return f"{100 * row[name]:.1f} ± {100 * row[f'{name}_standard_error']:.1f}"


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"


def _note(run: Mapping[str, Any], by_way: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    measured = run["score"] if run["judge"] is None else f"found right by {run['judge']}"
    note = (
        f"Percent ± standard error, {measured}. {run['dataset']}: {run['questions']} questions about "
        f"{run['histories']} histories of {run['turns']:,} turns, answered by {run['model']} "
        f"({run['context']:,} tokens of context) at temperature 0; all kinds weigh as in the whole "
        "data."
    )
    if run["model_is"] == OURS:
        note += " The demo's model is small: what tells is the difference between the rows."
    if run["load_average_1m_at_end"] > 2 * run["machine"]["cores"]:
        note += (
            f" The machine was busy with other work (load {run['load_average_1m_at_end']:.1f} on "
            f"{run['machine']['cores']} cores): the times are bounds."
        )
    left_out = by_way["full context"]["all"]["left_out"]
    told = "; ".join(f"{count} questions: {reason}" for reason, count in left_out.items())
    return f"{note} The whole history: {told}." if told else note
