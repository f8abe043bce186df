"""`python -m benchmarks.borders [--sets 24] [--quick]`: deviation of loaded KV, timing side channel.

floor     KL of the first token's distribution from exact KV to that of a cold full prefill: bfloat16
          differs within vLLM itself, by where the prompt is cut
knee      the same for near KV, by the number of last tokens that are recomputed
          (`kv.near_recompute_tokens`), over the same sets of cubes; and TTFT over that of a prefill
stranger  person B stores a private cube with the same text as a private cube of person A: TTFT of B's
          question over that of A's first question, and over that of A's second
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import Record, output_arguments
from benchmarks.ttft.chat import Bench, first_event, new_person
from benchmarks.ttft.rightness import QUESTION, TOP, reply_text, top_tokens
from memos_vllm.activation.quality import divergence
from tests.engine.harness import MODEL, Server

FLAGS = ("--max-model-len", "8192", "--max-logprobs", str(TOP))
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "MEMOS__PROMPT__CONTEXT_SHARE": "1",
    "MEMOS__KV__NEAR_HEAL": "false",
    "MEMOS__KV__PREFETCH": "false",
    "MEMOS__KV__SHARED_BLOCKS": "false",  # the request of a new person loads
}
TAILS = (0, 16, 64, 256)
TAIL = "MEMOS__KV__NEAR_RECOMPUTE_TOKENS"
CUBES, CONTEXTS, TIMED = 10, 16, 8
STRANGER_TOKENS = 1024
LIKELIEST: dict[str, Any] = {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sets", type=int, default=24)
    output_arguments(parser)
    arguments = parser.parse_args()
    quick = arguments.quick
    count = 3 if quick else arguments.sets
    tails = TAILS[:2] if quick else TAILS
    record = Record("borders", config={"sets": count, "cubes": CUBES, "contexts": CONTEXTS})
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        server = Server(Path(name), home=home, environment=ENVIRONMENT, flags=FLAGS)
        with server.running() as running:
            bench = Bench(running)
            record.rows += strangers(bench, 2 if quick else 7, record.headline)
            record.rows.append(floor(bench, 2 if quick else 16, record.headline))
            cubes = [bench.cube(random.Random(i).randint(64, 512), 5000 + i) for i in range(CUBES)]
            contexts, wanted = drawn(cubes, CONTEXTS), drawn(cubes, count, seed=23)
            for context in contexts:  # near KV comes from these
                bench.ask(new_person(), QUESTION, context, max_tokens=1)
                time.sleep(1)
            full = [
                bench.ask(new_person(), QUESTION, each, kv="none", **LIKELIEST) for each in wanted
            ]
            for tail in tails:
                bench.restart(**{TAIL: str(tail)})
                record.rows.append(knee(bench, tail, wanted, full))
    for row in record.rows:
        if row["part"] == "knee":
            record.headline[f"near_kl_mean_tail_{row['recomputed_tokens']}"] = row["kl_mean"]
    record.finish(quick=quick, out=arguments.out)


def drawn(cubes: Sequence[str], count: int, seed: int = 17) -> list[list[str]]:
    """Sets of 2 to 6 cubes, in random order."""
    dice = random.Random(seed)
    return [dice.sample(list(cubes), dice.randint(2, 6)) for _ in range(count)]


def floor(bench: Bench, prompts: int, headline: dict[str, float]) -> dict[str, Any]:
    found, same = [], 0
    for seed in range(7000, 7000 + prompts):
        cube = bench.cube(random.Random(seed).randint(100, 900), seed)
        cold = bench.ask(new_person(), QUESTION, [cube], kv="none", **LIKELIEST)
        bench.ask(new_person(), QUESTION, [cube], max_tokens=1)
        bench.wait_until_kept(cube)
        loaded = bench.ask(new_person(), QUESTION, [cube], **LIKELIEST)
        found.append(divergence(top_tokens(cold), top_tokens(loaded)))
        same += reply_text(cold) == reply_text(loaded)
    headline["exact_bf16_kl_mean"] = round(statistics.fmean(found), 5)
    return {"part": "floor", "prompts": prompts} | spread(found) | {"same": same / prompts}


def knee(
    bench: Bench, tail: int, wanted: Sequence[list[str]], full: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    found, same, ratios, ways = [], 0, [], {"exact": 0, "near": 0, "prefill": 0}
    for number, (cubes, whole) in enumerate(zip(wanted, full, strict=True)):
        reply = bench.ask(new_person(), QUESTION, cubes, kv="near", **LIKELIEST)
        found.append(divergence(top_tokens(whole), top_tokens(reply)))
        same += reply_text(whole) == reply_text(reply)
        for cube in reply["memory"]["cubes"]:
            ways[cube["kv"]] += 1
        if number < TIMED:
            near, _ = bench.ttft(new_person(), QUESTION, cubes, "near")
            prefill, _ = bench.ttft(new_person(), QUESTION, cubes, "none")
            ratios.append(near / prefill)
    return {
        "part": "knee",
        "recomputed_tokens": tail,
        "sets": len(wanted),
        "cubes": ways,
        **spread(found),
        "same": round(same / len(wanted), 4),
        "ttft_over_prefill_median": round(statistics.median(ratios), 3),
    }


def strangers(bench: Bench, pairs: int, headline: dict[str, float]) -> list[dict[str, Any]]:
    """TTFT of a person whose private cube has the text of another's, whose KV is stored; a text per pair."""
    rows = []
    for number in range(pairs):
        text = bench.text(STRANGER_TOKENS, 9000 + number)
        first, stranger = new_person(), new_person()
        own = private_cube(bench, first, text)
        cold, _ = timed(bench, first, own)
        bench.wait_until_kept(own)
        warm, cached = timed(bench, first, own)
        other, cached_of_stranger = timed(bench, stranger, private_cube(bench, stranger, text))
        rows.append(
            {
                "part": "stranger",
                "over_first_question": round(other / cold, 3),
                "over_second_question": round(other / warm, 3),
                "cached_tokens_of_second_question": cached,
                "cached_tokens_of_stranger": cached_of_stranger,
            }
        )
    for name in ("over_first_question", "over_second_question"):
        headline[f"stranger_ttft_{name}"] = statistics.median(row[name] for row in rows)
    return rows


def private_cube(bench: Bench, person: str, text: str) -> str:
    """Store a cube; returns its id."""
    body = {"payload": {"type": "explicit", "format": "text", "content": text}}
    reply = bench.server.http(None, person).post("/v1/memory/cubes", json=body)
    reply.raise_for_status()
    made: str = reply.json()["meta"]["id"]
    return made


def timed(bench: Bench, person: str, cube: str) -> tuple[float, int]:
    """(seconds to the first token, cached tokens)"""
    memory = {"cubes": [cube], "retrieve": False, "write": False, "budget_tokens": 8000}
    body = {
        "model": MODEL,
        "user": person,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "memory": memory,
    }
    return first_event(bench.http, body)


def spread(found: Sequence[float]) -> dict[str, float]:
    return {
        "kl_mean": round(statistics.fmean(found), 5),
        "kl_median": round(statistics.median(found), 5),
        "kl_max": round(max(found), 5),
    }


if __name__ == "__main__":
    main()
