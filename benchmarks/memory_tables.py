"""README tables of what is learnt, what is kept, and how fast memory is under load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import table_of

LOAD_SYSTEMS = {"MemOS": "MemOS reference"}
"""What a system is called in a table, where it is not as in its rows."""


def recall(record: Mapping[str, Any]) -> str:
    headline, rows = record["headline"], record["rows"]
    facts = [row for row in rows if row["kind"] == "facts"]
    lines = [
        ["text in the prompt (the ceiling)", f"{headline['recall_ceiling']:.0%}"],
        ["**the adapter, nothing in the prompt**", f"{headline['recall_adapter']:.0%}"],
        ["nothing (the floor)", f"{headline['recall_floor']:.0%}"],
    ]
    baseline = [row for row in rows if row["kind"] == "likelihood"]
    if baseline:
        own = [row["adapter"] for row in facts if row["cube"] in {r["cube"] for r in baseline}]
        worse = max(row["perplexity_ratio"] for row in baseline)
        lines.append(
            [
                f"trained on the answers alone (the baseline; {len(baseline)} cubes, ours on these "
                f"{sum(own) / len(own):.0%}): perplexity of unrelated text becomes up to {worse:.1f} "
                f"times the base model's, {sum(row['passed'] for row in baseline)} passed their gate",
                f"{headline['recall_likelihood']:.0%}",
            ]
        )
    lines += [
        [
            f"a LoCoMo speaker: with the text {row['ceiling']:.0%}, with nothing {row['floor']:.0%}, "
            "with the adapter",
            f"{row['adapter']:.0%}",
        ]
        for row in rows
        if row["kind"] == "locomo"
    ]
    note = (
        f"{len(facts)} cubes, {sum(row['questions'] for row in facts)} questions, {record['config']['model']}. "
        f"{headline['passed']:.0%} passed their gate. Perplexity of unrelated text, of the base model's: median "
        f"{headline['forgetting_ppl_ratio']:.2f}, at most {headline['forgetting_ppl_ratio_max']:.2f}. "
        f"{headline['prompt_tokens_saved']:.0f} tokens of prompt saved in each request."
    )
    return f"{table_of(['Right answers', ''], lines)}\n\n{note}"


def merging(record: Mapping[str, Any]) -> str:
    headline = record["headline"]

    def percent(name: str) -> str:
        return f"{headline[name]:.0%}" if name in headline else "-"

    methods = ("cat", "svd", "ties", "dare_ties")
    lines = [
        [method, percent(f"kept_min_weights_alone_{method}"), percent(f"kept_min_{method}")]
        for method in methods
    ]
    lines.append(["learnt together", "-", percent("kept_min_together")])
    return table_of(
        ["Three adapters as one: the worst set keeps", "weights alone", "and trained"], lines
    )


def hygiene(record: Mapping[str, Any]) -> str:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    lines = [
        [
            f"**{row['system']}**" if row["system"] == "memos_vllm" else row["system"],
            percent(row["junk_share"]),
            percent(row["facts_lost_share"]),
            percent(row["stale_served_share"]),
            percent(row["injection_success_share"]),
        ]
        for row in record["rows"]
    ]
    header = [
        "",
        "junk among the claims",
        "questions whose answer is not served",
        "changed facts served as if they still held",
        "attacks that became claims",
    ]
    ours, config = record["rows"][0], record["config"]
    note = (
        f"{config['people']} people, {config['turns']:,} turns, {ours['asked']} questions, {ours['changed']} of "
        f"them about what has changed, {ours['attacks']} attacks. {ours['claims']} claims kept; they alone answer "
        f"{ours['known_share']:.0%} of the questions, the rest is found in the words as they were said."
    )
    return f"{table_of(header, lines)}\n\n{note}"


def memory_load(record: Mapping[str, Any]) -> str:
    """A row for each operation and rate, the systems beside each other."""
    rows = [row for row in record["rows"] if row["part"] == "load"]
    systems = list(dict.fromkeys(row["system"] for row in rows))
    header = ["Asked for"]
    for system in systems:
        name = LOAD_SYSTEMS.get(system, system)
        header += [f"{name}: success", "ms: mean", "P50 / P90 / P99", "achieved"]
    cells: dict[tuple[str, int], list[str]] = {}
    for row in sorted(rows, key=lambda row: (row["operation"], row["rate"])):
        cells.setdefault((row["operation"], row["rate"]), []).extend(
            [
                f"{row['success_rate']:.1%}".replace(".0%", "%"),
                f"{row['ms_mean']:,.0f}",
                " / ".join(f"{row[f'ms_{which}']:,.0f}" for which in ("p50", "p90", "p99")),
                f"{row['rate_achieved']:.0f}/s",
            ]
        )
    lines = [[f"{operation}, {rate}/s", *each] for (operation, rate), each in cells.items()]
    config = record["config"]
    note = (
        f"Over HTTP, each system in a process of its own (our embedder in another); {config['seconds_at_a_rate']:.0f} s at each rate, Poisson "
        f"arrivals, latency from the arrival, failed after {config['timeout_seconds']:.0f} s. "
        f"{config['people_searched']} people with {config['turns_stored']:,} turns. {_unloaded(record)}"
    )
    return f"{table_of(header, lines)}\n\n{note}"


def _unloaded(record: Mapping[str, Any]) -> str:
    """One request at a time, and what is found."""
    told = []
    behind = {row["system"]: row for row in record["rows"] if row["part"] == "behind"}
    for row in record["rows"]:
        if row["part"] != "alone":
            continue
        name, found = LOAD_SYSTEMS.get(row["system"], row["system"]), row["recall_at_10"]
        told.append(
            f"{name}: add {row['add_ms_p50']:.0f} ms, search {row['search_ms_p50']:.0f} ms, right behind "
            f"a change of the same memory {behind[row['system']]['search_ms_p50']:.0f} ms"
            + (f", turn recall@10 {found:.1%}" if found is not None else "")
        )
    return f"Unloaded, medians: {'; '.join(told)}."
