"""Table of multi-tenant chat under load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import table_of


def serving(record: Mapping[str, Any]) -> str:
    lines = [
        [
            str(row["concurrency"]),
            f"**{row['arm']}**" if row["arm"].startswith("ours") else row["arm"],
            f"{row['ttft_p50']:.2f} / {row['ttft_p95']:.2f} / {row['ttft_p99']:.2f}",
            f"{row['per_token_ms']:.0f}",
            f"{row['whole_p50']:.1f}",
            f"{row['tokens_per_second']:.1f}",
            f"{row['prompt_tokens']:,}",
            f"{100 * row['cached_share']:.0f} %",
            f"{row['api_cpu_ms_per_request']:.0f} + {row['helper_cpu_ms_per_request']:.0f}",
            str(row["errors"]),
        ]
        for row in record["rows"]
    ]
    head = [
        "clients",
        "arm",
        "TTFT, s, P50 / P95 / P99",
        "ms per token",
        "reply, s",
        "tokens/s",
        "prompt",
        "cached",
        "CPU of API + helpers, ms",
        "errors",
    ]
    config, headline = record["config"], record["headline"]
    levels = sorted({row["concurrency"] for row in record["rows"]})
    ratios = [_ratios(headline, "ours_over_pasted", level) for level in levels]
    quiet = [_ratios(headline, "quiet_over_bare", level) for level in levels]
    note = (
        f"{config['people']} people of {config['tenants']} tenants, {config['history_turns']} turns of history each; chats of "
        f"{config['chat_turns']} turns, replies of {config['reply_tokens']} tokens; {config['kv_blocks']} KV "
        f"blocks of {config['block_size']} tokens in each engine. Medians over {config['starts']} starts of "
        f"{config['rounds']} rounds, {headline['rounds_dropped']} dropped. **Ours over pasted**, TTFT P50 / P95 and "
        f"tokens per second, within a round: {'; '.join(ratios)}. With nothing to say, over no memory: "
        f"{'; '.join(quiet)}."
    )
    if left_out := config.get("left_out"):
        note += f" Left out: {left_out}."
    if errors := config.get("errors"):
        note += f" Errors: `{'`, `'.join(errors)}`."
    return f"{table_of(head, lines)}\n\n{note}"


def _ratios(headline: Mapping[str, float], name: str, level: int) -> str:
    p50, p95, rate = (
        headline[f"{what}_{name}_{level}"] for what in ("ttft_p50", "ttft_p95", "tokens_per_second")
    )
    return f"{p50:.2f} / {p95:.2f}, × {rate:.2f} ({level} clients)"
