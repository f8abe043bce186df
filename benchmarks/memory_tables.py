"""Tables of adapters, of what memory retains, and of memory under load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.markdown import table_of

LOAD_SYSTEMS = {"MemOS": "MemOS reference"}
"""Names in tables that differ from the names in rows."""

LORA_CASES = {"never seen": "first use", "base model": "no adapter (base model)"}


def recall(record: Mapping[str, Any]) -> str:
    headline, rows = record["headline"], record["rows"]
    facts = [row for row in rows if row["kind"] == "facts"]
    lines = [
        ["text in the prompt (ceiling)", f"{headline['recall_ceiling']:.0%}"],
        ["**adapter, no text in the prompt**", f"{headline['recall_adapter']:.0%}"],
        ["neither (floor)", f"{headline['recall_floor']:.0%}"],
    ]
    baseline = [row for row in rows if row["kind"] == "likelihood"]
    if baseline:
        own = [row["adapter"] for row in facts if row["cube"] in {r["cube"] for r in baseline}]
        worse = max(row["perplexity_ratio"] for row in baseline)
        lines.append(
            [
                f"baseline, trained on the answers alone ({len(baseline)} cubes; ours on these: "
                f"{sum(own) / len(own):.0%}): perplexity of unrelated text up to {worse:.1f} "
                f"times the base model's, {sum(row['passed'] for row in baseline)} passed the gate",
                f"{headline['recall_likelihood']:.0%}",
            ]
        )
    lines += [
        [
            f"adapter of a LoCoMo speaker (text in the prompt {row['ceiling']:.0%}, "
            f"neither {row['floor']:.0%})",
            f"{row['adapter']:.0%}",
        ]
        for row in rows
        if row["kind"] == "locomo"
    ]
    note = (
        f"{len(facts)} cubes, {sum(row['questions'] for row in facts)} questions, {record['config']['model']}. "
        f"{headline['passed']:.0%} of the adapters passed the gate. Perplexity of unrelated text over the base "
        f"model's: median {headline['forgetting_ppl_ratio']:.2f}, at most "
        f"{headline['forgetting_ppl_ratio_max']:.2f}. An adapter saves "
        f"{headline['prompt_tokens_saved']:.0f} prompt tokens per request."
    )
    return f"{table_of(['Questions answered from', 'correct'], lines)}\n\n{note}"


def merging(record: Mapping[str, Any]) -> str:
    headline = record["headline"]

    def percent(name: str) -> str:
        return f"{headline[name]:.0%}" if name in headline else "-"

    methods = ("cat", "svd", "ties", "dare_ties")
    lines = [
        [method, percent(f"kept_min_weights_alone_{method}"), percent(f"kept_min_{method}")]
        for method in methods
    ]
    lines.append(["trained together from the start", "-", percent("kept_min_together")])
    return table_of(
        ["Recall retained by the worst of three sets", "merged weights", "merged, then trained"],
        lines,
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
        "false claims, of all claims",
        "questions whose answer is not in the prompt",
        "outdated facts in the prompt as current",
        "injection attempts that became claims",
    ]
    ours, config = record["rows"][0], record["config"]
    note = (
        f"{config['people']} people, {config['turns']:,} turns, {ours['asked']} questions, {ours['changed']} of "
        f"them about facts that changed, {ours['attacks']} injection attempts. {ours['claims']} claims stored; "
        f"claims alone answer {ours['known_share']:.0%} of the questions."
    )
    return f"{table_of(header, lines)}\n\n{note}"


def memory_load(record: Mapping[str, Any]) -> str:
    """A row for each operation and rate, the systems beside each other."""
    rows = [row for row in record["rows"] if row["part"] == "load"]
    header = ["Offered rate"]
    for name in _systems(rows):
        header += [f"{name}: success", "ms: mean", "P50 / P90 / P99", "achieved"]
    cells: dict[tuple[str, int], list[str]] = {}
    for row in sorted(rows, key=lambda row: (row["operation"], row["rate"])):
        cells.setdefault((row["operation"], row["rate"]), []).extend(
            [
                _success(row),
                f"{row['ms_mean']:,.0f}",
                " / ".join(f"{row[f'ms_{which}']:,.0f}" for which in ("p50", "p90", "p99")),
                f"{row['rate_achieved']:.0f}/s",
            ]
        )
    lines = [[f"{operation}, {rate}/s", *each] for (operation, rate), each in cells.items()]
    note = f"{_load_method(record)} {_unloaded(record)}"
    return f"{table_of(header, lines)}\n\n{note}"


def memory_load_short(record: Mapping[str, Any]) -> str:
    """Every second rate: share of requests that succeeded, and the latencies."""
    rows = [row for row in record["rows"] if row["part"] == "load"]
    rates = sorted({row["rate"] for row in rows})[1::2]
    cells: dict[tuple[str, int], list[str]] = {}
    for row in sorted(rows, key=lambda row: (row["operation"], row["rate"])):
        if row["rate"] in rates:
            latency = f"{row['ms_p50']:,.0f} / {row['ms_p99']:,.0f}"
            cell = latency if row["success_rate"] == 1 else f"{latency} ({_success(row)})"
            cells.setdefault((row["operation"], row["rate"]), []).append(cell)
    lines = [[f"{operation}, {rate}/s", *each] for (operation, rate), each in cells.items()]
    header = ["Latency P50 / P99, ms (success below 100%)", *_systems(rows)]
    return f"{table_of(header, lines)}\n\n{_load_method(record)}"


def _systems(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names for the header, in the order of the rows."""
    return [LOAD_SYSTEMS.get(name, name) for name in dict.fromkeys(row["system"] for row in rows)]


def _success(row: Mapping[str, Any]) -> str:
    return f"{row['success_rate']:.1%}".replace(".0%", "%")


def _load_method(record: Mapping[str, Any]) -> str:
    config = record["config"]
    return (
        "Over HTTP, each system in its own process (our embedder in another); "
        f"{config['seconds_at_a_rate']:.0f} s at each rate, Poisson arrivals, latency counted from the "
        f"arrival, a request fails after {config['timeout_seconds']:.0f} s. "
        f"{config['people_searched']} people with {config['turns_stored']:,} turns."
    )


def _unloaded(record: Mapping[str, Any]) -> str:
    """Latencies of one request at a time, and recall."""
    systems = []
    behind = {row["system"]: row for row in record["rows"] if row["part"] == "behind"}
    for row in record["rows"]:
        if row["part"] != "alone":
            continue
        name, found = LOAD_SYSTEMS.get(row["system"], row["system"]), row["recall_at_10"]
        systems.append(
            f"{name}: add {row['add_ms_p50']:.0f} ms, search {row['search_ms_p50']:.0f} ms, search right "
            f"after a change of the same memory {behind[row['system']]['search_ms_p50']:.0f} ms"
            + (f", turn recall@10 {found:.1%}" if found is not None else "")
        )
    return f"One request at a time, medians: {'; '.join(systems)}."


def lora(record: Mapping[str, Any]) -> str:
    lines = [
        [LORA_CASES.get(row["way"], row["way"]), f"{row['over_resident']:.2f}"]
        for row in record["rows"]
        if row["part"] == "first token"
    ]
    (many,) = (row for row in record["rows"] if row["part"] == "many adapters")
    (mixed,) = (row for row in record["rows"] if row["part"] == "mixed batch")
    config = record["config"]
    note = (
        f"Rank {config['rank']} on two modules of each layer, questions of 40 tokens, median of "
        f"{config['repetitions']} ratios. {many['registered']:,} registered adapters, "
        f"{many['requests']} requests to {many['different']} of them, drawn by Zipf's law: "
        f"{many['failed']} failed, the server's resident memory grew by {many['rss_mib_grown']:.0f} MiB. A "
        "batch of the base model and four adapters takes "
        f"{mixed['together_over_one_by_one']:.2f} of the time of the same requests one by one."
    )
    return f"{table_of(['TTFT with an adapter', 'over a resident one'], lines)}\n\n{note}"


def acl(record: Mapping[str, Any]) -> str:
    config = record["config"]
    rows = {row["part"]: row for row in record["rows"]}
    names = {
        "before": "before grants",
        "plain": "with grants in the code, nothing granted",
        "groups": f"{config['groups']} groups, a grant on each person's cube",
    }
    times = ("list_ms", "prompt_ms", "search_ms", "first_search_ms")
    lines = [
        [
            names[part],
            f"{rows[part]['cubes_in_reach']:,}",
            *(f"{rows[part][each]:.1f}" for each in times),
        ]
        for part in names
    ]
    header = ["One of 100 people", "cubes in reach", "list, ms", "owners and stable cubes, ms"]
    note = (
        f"{config['cubes']:,} cubes of one item on SQLite, {config['shared']:,} of them the tenant's; each "
        f"person in {config['members']} groups. Median of 20 people and of several processes in turn; search by "
        "words alone; the first search of a process builds the indexes."
    )
    if (cedar := rows.get("cedar")) is not None:
        note += (
            f" Cedar (cedarpy {cedar['cedarpy']}) reads these entities in {cedar['build_ms']:,.0f} ms and decides "
            f"`use` of all cubes for one person in {cedar['decide_all_ms']:,.0f} ms."
        )
    columns = [*header, "search, ms", "first search, ms"]
    return f"{table_of(columns, lines)}\n\n{note}"
