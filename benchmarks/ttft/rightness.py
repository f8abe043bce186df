"""Correctness of loaded KV: exact against a full prefill token by token, near by KL."""

from __future__ import annotations

import random
import time
from typing import Any

from benchmarks.ttft.chat import Bench, new_person
from memos_vllm.activation.quality import divergence

TOP = 1000
WAYS = ("exact", "near", "prefill")
QUESTION = "Which number belongs to the river?"


def identical_share(bench: Bench, prompts: int) -> tuple[float, list[dict[str, Any]]]:
    """Share of prompts whose greedy reply from loaded KV equals that of a full prefill."""
    rows = []
    for seed in range(1000, 1000 + prompts):
        cube = bench.cube(random.Random(seed).randint(100, 900), seed)
        cold = bench.ask(new_person(), QUESTION, [cube], kv="none", max_tokens=32)
        bench.ask(new_person(), QUESTION, [cube], max_tokens=1)
        bench.wait_until_kept(cube)
        loaded = bench.ask(new_person(), QUESTION, [cube], max_tokens=32)
        rows.append(
            {
                "prompt_tokens": cold["usage"]["prompt_tokens"],
                "loaded_tokens": loaded["usage"]["prompt_tokens_details"]["cached_tokens"],
                "identical": reply_text(cold) == reply_text(loaded),
            }
        )
    return sum(row["identical"] for row in rows) / len(rows), rows


def nearness(bench: Bench, requests: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """KL of near KV over a stream of requests for sets of cubes, drawn by Zipf's law.

    Each set is asked for with `near`, compared with a full prefill, and then computed exactly once, as
    healing would do, so that later sets find its contexts.
    """
    dice = random.Random(7)
    cubes = [bench.cube(dice.randint(64, 512), 2000 + i) for i in range(12)]
    weights = [1 / (rank + 1) for rank in range(len(cubes))]
    rows = []
    for number in range(requests):
        wanted: list[str] = []
        size = dice.randint(2, 6)
        while len(wanted) < size:
            choice = dice.choices(cubes, weights)[0]
            if choice not in wanted:
                wanted.append(choice)
        # `order: hottest`
        wanted.sort(key=cubes.index)
        options: dict[str, Any] = {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP}
        full = bench.ask(new_person(), QUESTION, wanted, kv="none", **options)
        near = bench.ask(new_person(), QUESTION, wanted, kv="near", **options)
        bench.ask(new_person(), QUESTION, wanted, max_tokens=1)
        time.sleep(1)
        ways = [cube["kv"] for cube in near["memory"]["cubes"]]
        rows.append(
            {
                "request": number,
                "cubes": size,
                "exact": ways.count("exact"),
                "near": ways.count("near"),
                "prefill": ways.count("prefill"),
                "kl": round(divergence(top_tokens(full), top_tokens(near)), 5),
                "same_first_token": reply_text(full) == reply_text(near),
            }
        )
    late = [row for row in rows if row["request"] >= requests // 3 and row["near"]]
    headline = {}
    if late:
        headline["near_kl_mean"] = round(sum(row["kl"] for row in late) / len(late), 4)
        same = sum(row["same_first_token"] for row in late)
        headline["near_top1_agreement"] = round(same / len(late), 4)
    return headline, rows


def healing(bench: Bench, requests: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Share of exact cubes over a stream of near requests with healing: Zipf over cubes, sets of 2 to 8."""
    dice = random.Random(11)
    cubes = [bench.cube(dice.randint(64, 512), 3000 + i) for i in range(10)]
    weights = [1 / (rank + 1) for rank in range(len(cubes))]
    rows = []
    for number in range(requests):
        size, wanted = dice.randint(2, 8), set[str]()
        while len(wanted) < size:
            wanted.add(dice.choices(cubes, weights)[0])
        order = sorted(wanted, key=cubes.index)  # `order: hottest`
        reply = bench.ask(new_person(), QUESTION, order, kv="near", max_tokens=1)
        time.sleep(1.5)  # healing runs between two questions
        ways = [cube["kv"] for cube in reply["memory"]["cubes"]]
        rows.append({"request": number, "cubes": size} | {way: ways.count(way) for way in WAYS})
    headline = {}
    for part, of in (("first", rows[: requests // 3]), ("last", rows[-(requests // 3) :])):
        exact = sum(row["exact"] for row in of) / sum(row["cubes"] for row in of)
        headline[f"healing_exact_share_{part}_third"] = round(exact, 4)
    return headline, rows


def reply_text(reply: dict[str, Any]) -> str:
    """The reply's text."""
    text: str = reply["choices"][0]["message"]["content"]
    return text


def top_tokens(reply: dict[str, Any]) -> dict[str, float]:
    """Log-probabilities of the likeliest first tokens."""
    first = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {f"{top['token']}{top['bytes']}": top["logprob"] for top in first}
