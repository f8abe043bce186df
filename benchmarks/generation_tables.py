"""Tables of answers: models with memory, with the evidence, and without either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.markdown import table_of

OURS = "our server's"
WAYS = {
    "memory": "**memory** (what memos_vllm finds)",
    "evidence": "evidence: the turns that the data set names",
    "full context": "whole history",
    "nothing": "nothing",
}


def generation(record: Mapping[str, Any]) -> str:
    """One table per run."""
    return "\n\n".join(
        _run(run, [row for row in record["rows"] if row["run"] == run["run"]])
        for run in record["config"]["runs"]
    )


def _run(run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    by_way: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_way.setdefault(row["way"], {})[row["kind"]] = row
    kinds = list(dict.fromkeys(row["kind"] for row in rows if row["kind"] != "all"))
    lines = [_line(way, by_kind, kinds) for way, by_kind in by_way.items()]
    header = [f"{run['model']}, in the prompt", "all", "gain over nothing", *kinds]
    header += ["prompt tokens", "first token, ms", "whole reply, ms"]
    return f"{table_of(header, lines)}\n\n{_note(run, by_way)}"


def _line(way: str, by_kind: Mapping[str, Mapping[str, Any]], kinds: list[str]) -> list[str]:
    whole = by_kind["all"]
    if not whole["questions"]:
        reasons = ", ".join(whole["left_out"]) or "not asked"
        return [WAYS[way], reasons, *("" for _ in kinds), "", "", "", ""]
    name = "judged" if "judged" in whole else "score"
    parts = [_percent(by_kind[kind].get(name)) if kind in by_kind else "" for kind in kinds]
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
    measured = run["score"] if run["judge"] is None else f"judged correct by {run['judge']}"
    note = (
        f"Percent ± standard error, {measured}. {run['dataset']}: {run['questions']} questions about "
        f"{run['histories']} histories of {run['turns']:,} turns, answered by {run['model']} "
        f"({run['context']:,} tokens of context) at temperature 0. `all` weights each kind by its share of "
        "the data set."
    )
    if run["model_is"] == OURS:
        note += " The demo's model is small: compare the rows, not the absolute scores."
    if run["load_average_1m_at_end"] > 2 * run["machine"]["cores"]:
        note += (
            f" Other work ran on the machine (load average {run['load_average_1m_at_end']:.1f} on "
            f"{run['machine']['cores']} cores): the times are upper bounds."
        )
    left_out = by_way["full context"]["all"]["left_out"]
    reasons = "; ".join(f"{count} questions: {reason}" for reason, count in left_out.items())
    return f"{note} Whole history: {reasons}." if reasons else note
