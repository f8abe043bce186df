"""Tables of time to first token and of activation memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.markdown import table_of

TTFT_WAYS = {
    "prefix cache warm": "vLLM's prefix cache, warm (the limit)",
    "exact, RAM": "**exact, from shared memory**",
    "exact, restarted, fetched ahead": "**exact, after a restart, fetched ahead**",
    "exact, disk": "**exact, from disk after a restart**, page cache dropped",
    "near": "**near, cubes in a new order**",
    "LMCache alone": "LMCache alone, from its memory (its own connector, over its own server's limit)",
    "full prefill": "full prefill",
    "no memory": "no memory",
}
SHORT_WAYS = tuple(way for way in TTFT_WAYS if way != "exact, restarted, fetched ahead")
EXTRACTION_CASES = {
    "alone": "the engine is idle",
    "a turn is read": "the model reads a turn",
    "a turn is read by a prompt of its own": "the model reads a turn by a prompt of its own",
    "a person is answered": "the model answers another person",
}
EXTRACTION_FORMS = {"continued": "Behind the conversation", "alone": "By a prompt of its own"}


def ttft(record: Mapping[str, Any]) -> str:
    headline = record["headline"]
    note = (
        f"{_ttft_method(record)} Greedy replies from loaded KV equal those of a full prefill, token by "
        f"token (float32), in {100 * headline['exact_identical_share']:.0f} % of prompts. Near, on a stream "
        f"of sets of 2 to 6 cubes: mean KL {headline['near_kl_mean']:.3f}, same first token "
        f"{100 * headline['near_top1_agreement']:.0f} %. Share of prompt tokens that were cached over ten "
        f"turns with retrieval: {100 * headline['ten_turn_cached_share_ours']:.0f} % with this layout, "
        f"{100 * headline['ten_turn_cached_share_system_prompt']:.0f} % with retrieved items in the "
        "system prompt. Attention over 6k tokens takes "
        f"{100 * headline['attention_share_of_limit_6k']:.0f} % of the limit's time. With healing, a "
        "stream of near requests (Zipf over cubes, sets of 2 to 8) has "
        f"{100 * headline['healing_exact_share_first_third']:.0f} % of its cubes exact in its first "
        f"third and {100 * headline['healing_exact_share_last_third']:.0f} % in its last."
    )
    return f"{_ttft_grid(record, list(TTFT_WAYS))}\n\n{note}"


def ttft_short(record: Mapping[str, Any]) -> str:
    """The grid without the row of KV that was fetched ahead."""
    return f"{_ttft_grid(record, SHORT_WAYS)}\n\n{_ttft_method(record)}"


def _ttft_grid(record: Mapping[str, Any], ways: Sequence[str]) -> str:
    grid = [row for row in record["rows"] if row["part"] == "grid"]
    shortest = _shortest_question(record)
    sizes = list(dict.fromkeys(row["memory"] for row in grid))
    found = {(row["way"], row["memory"]): row for row in grid if row["question_tokens"] == shortest}
    found |= {
        (row["way"], row["memory"]): row for row in record["rows"] if row["part"] == "LMCache"
    }
    lines = [
        [
            TTFT_WAYS[way],
            *(
                f"{found[way, size]['over_prefix_warm']:.2f}" if (way, size) in found else "n/a"
                for size in sizes
            ),
        ]
        for way in ways
    ]
    return table_of(["TTFT over the limit, by tokens of memory", *sizes], lines)


def _ttft_method(record: Mapping[str, Any]) -> str:
    return (
        f"Questions of {_shortest_question(record)} tokens; ratios within one repetition, median of "
        f"{record['config']['repetitions']}."
    )


def _shortest_question(record: Mapping[str, Any]) -> int:
    tokens: int = min(row["question_tokens"] for row in record["rows"] if row["part"] == "grid")
    return tokens


def third_party(record: Mapping[str, Any]) -> str:
    rows = {(row["memory_tokens"], row["way"]): row for row in record["rows"]}
    lines = []
    for size in dict.fromkeys(row["memory_tokens"] for row in record["rows"]):
        alone, ours = rows[size, "vLLM"], rows[size, "memos_vllm"]
        lines.append(
            [
                f"{size:,}",
                *(
                    f"{ours[f'ttft_ms_{which}'] / alone[f'ttft_ms_{which}']:.2f}"
                    for which in ("first", "median", "p99")
                ),
                f"{ours['computed_tokens']} / {alone['computed_tokens']}",
            ]
        )
    header = [
        "TTFT over vLLM's, by tokens of memory",
        "first request",
        "median",
        "p99",
        "tokens computed after the memory, ours / vLLM",
    ]
    return table_of(header, lines)


def kv_growth(record: Mapping[str, Any]) -> str:
    lines = [
        [
            f"{row['segments']:,}",
            f"{row['plan_ms']:.2f}",
            f"{row['load_ms']:.1f}",
            f"{row['list_all_ms']:,.0f}",
            f"{row['forget_ms']:.2f}",
        ]
        for row in record["rows"]
    ]
    header = [
        "Stored segments",
        "plan a prompt, ms",
        "load a segment, ms",
        "list all files, ms",
        "delete a cube's KV, ms",
    ]
    config = record["config"]
    note = (
        f"Medians; a prompt of {config['chain']} segments of {config['segment_tokens']} tokens, "
        f"{record['headline']['bytes_per_token']:,} bytes per token (135M model, bfloat16)."
    )
    return f"{table_of(header, lines)}\n\n{note}"


def borders(record: Mapping[str, Any]) -> str:
    rows, headline = record["rows"], record["headline"]
    (floor,) = (row for row in rows if row["part"] == "floor")
    lines = [["exact, loaded (the engine's own deviation)", *_distance(floor), "-"]]
    lines += [
        [
            f"near, last {row['recomputed_tokens']} tokens of memory recomputed",
            *_distance(row),
            f"{row['ttft_over_prefill_median']:.2f}",
        ]
        for row in rows
        if row["part"] == "knee"
    ]
    header = ["Against a cold full prefill, bfloat16", "mean KL", "median KL", "same first token"]
    strangers = [row for row in rows if row["part"] == "stranger"]
    note = (
        f"{record['config']['sets']} sets of 2 to 6 of {record['config']['cubes']} cubes in random order. "
        "**Timing side channel**: person B stores a private cube with the same text as a private cube of "
        "person A, whose KV is stored. B's first token takes "
        f"{headline['stranger_ttft_over_first_question']:.2f} of the time of A's first question, before A's "
        f"KV was stored, and {headline['stranger_ttft_over_second_question']:.1f} times that of A's second "
        "question, with at most "
        f"{max(row['cached_tokens_of_stranger'] for row in strangers)} cached tokens; median of "
        f"{len(strangers)} pairs."
    )
    return f"{table_of([*header, 'TTFT over prefill'], lines)}\n\n{note}"


def _distance(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['kl_mean']:.4f}", f"{row['kl_median']:.4f}", f"{row['same']:.0%}"]


def extraction(record: Mapping[str, Any]) -> str:
    rows = {row["while"]: row for row in record["rows"]}
    lines = [
        [EXTRACTION_CASES.get(case, case), f"{row['over_alone']:.2f}"] for case, row in rows.items()
    ]
    note = f"Median of {record['config']['repetitions']} ratios, each within one repetition."
    for row in rows.values():
        if "computed_per_reading" in row:
            note += (
                f" {EXTRACTION_FORMS[row['form']]}: {row['computed_per_reading']:,.0f} prompt tokens computed "
                f"per reading, {row['cached_per_reading']:,.0f} from the prefix cache."
            )
        if "load_requests_failed" in row:
            failed, sent = row["load_requests_failed"], row["load_requests"]
            note += f" Requests of the load generator that failed: {failed} of {sent}."
    return f"{table_of(['TTFT of a question while', 'over idle'], lines)}\n\n{note}"


def _spread(row: Mapping[str, Any], name: str) -> list[str]:
    """Median of a ratio, its interquartile range, and its range over starts of the servers."""
    starts = row[f"{name}_ratio_by_start"]
    return [
        f"{row[f'{name}_ratio_median']:.3f}",
        f"{row[f'{name}_ratio_p25']:.3f} to {row[f'{name}_ratio_p75']:.3f}",
        f"{min(starts):.3f} to {max(starts):.3f}",
    ]


def overhead(record: Mapping[str, Any]) -> str:
    lines = [
        [row["case"], *_spread(row, "ttft"), *_spread(row, "tpot"), str(row["pairs"])]
        for row in record["rows"]
    ]
    columns = ["Case"]
    for name in ("TTFT", "time per token"):
        columns += [f"{name}, ratio", "interquartile range", "over starts"]
    config = record["config"]
    note = (
        f"{config['rounds']} starts of all servers; slices of {config['requests']} requests in a row, "
        f"{config['reply_tokens']} tokens out; {config['slices_dropped']} of "
        f"{config['slices_measured']} slices dropped, in which the machine was slow."
    )
    return f"{table_of([*columns, 'pairs'], lines)}\n\n{note}"
