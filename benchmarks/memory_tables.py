"""README tables of what is learnt and what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import table_of


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
