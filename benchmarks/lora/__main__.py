"""`python -m benchmarks.lora [--repetitions 9] [--quick]`: cost of attaching an adapter.

One server, no other load.  Each repetition times the first token with an adapter on its first use, with an
adapter in its slot, with an adapter that was evicted from its slot, and with the base model; the result is
the median of the ratios within a repetition.  Then requests to many registered adapters, drawn by Zipf's
law: failures, and growth of the server's memory.  Then a batch of the base model and four adapters over the
same requests one by one.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.record import Record, output_arguments
from benchmarks.ttft.chat import Bench, first_event
from tests.adapters import config_of, content_of, tensors_of
from tests.engine.harness import MODEL, Server

SLOTS, HOST, RANK = 4, 16, 8
FLAGS = (
    *("--enable-lora", "--max-loras", str(SLOTS), "--max-cpu-loras", str(HOST)),
    *("--max-lora-rank", str(RANK)),
)
LAYERS, WIDTH, KEYS = 30, 576, 192
TARGETS = {"self_attn.q_proj": (576, WIDTH), "self_attn.v_proj": (KEYS, WIDTH)}
QUESTION = 40
ZIPF = 1.1
_seeds = itertools.count(1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=9)
    output_arguments(parser)
    arguments = parser.parse_args()
    quick = arguments.quick
    repetitions = 2 if quick else arguments.repetitions
    registered, requests = (20, 20) if quick else (10_000, 300)
    record = Record(
        "lora",
        config={
            "slots": SLOTS,
            "host": HOST,
            "rank": RANK,
            "repetitions": repetitions,
            "registered": registered,
            "zipf_requests": requests,
        },
    )
    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name), home=Path(name) / "home", flags=FLAGS)
        with server.running() as running:
            bench = Bench(running)
            record.rows += first_tokens(bench, repetitions, record.headline)
            record.rows += many(running, bench, registered, requests, record.headline)
            record.rows += mixed(bench, 2 if quick else 5, record.headline)
    record.finish(quick=quick, out=arguments.out)


def adapter(bench: Bench, layers: int = LAYERS) -> str:
    """Store a random adapter; returns its cube's id."""
    shapes = {
        f"model.layers.{layer}.{target}": size
        for layer in range(layers)
        for target, size in TARGETS.items()
    }
    seed = next(_seeds)
    targets = [target.partition(".")[2] for target in TARGETS]
    content = content_of(tensors_of(shapes, RANK, seed), config_of(RANK, targets))
    payload = {"type": "parametric", "format": "lora", "content": content}
    body = {"meta": {"name": f"adapter-{seed}", "shared": True}, "payload": payload}
    reply = bench.http.post("/v1/memory/cubes", json=body)
    reply.raise_for_status()
    made: str = reply.json()["meta"]["id"]
    return made


def body_of(bench: Bench, cube: str | None, tokens: int = 1) -> dict[str, Any]:
    """Body of a request with a new question from a new person: no token of its prompt is cached."""
    question = bench.text(QUESTION, 10_000 + next(_seeds))
    return {
        "model": MODEL,
        "user": f"person-{next(_seeds)}",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": tokens,
        "memory": {"adapter": cube or False, "retrieve": False, "write": False},
    }


def first_tokens(
    bench: Bench, repetitions: int, headline: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    others = [adapter(bench) for _ in range(SLOTS)]
    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(way: str, cube: str | None) -> None:
        seconds[way].append(first_event(bench.http, body_of(bench, cube))[0])

    for cube in [*others, None]:
        first_event(bench.http, body_of(bench, cube))  # warm-up
    for _ in range(repetitions):
        cube = adapter(bench)
        timed("never seen", cube)
        timed("resident", cube)
        timed("base model", None)
        for other in others:
            first_event(bench.http, body_of(bench, other))
        timed("evicted from its slot", cube)

    def ratio(way: str, of: str) -> float:
        pairs = zip(seconds[way], seconds[of], strict=True)
        return round(statistics.median(one / other for one, other in pairs), 3)

    headline["first_token_unseen_over_resident"] = ratio("never seen", "resident")
    headline["first_token_evicted_over_resident"] = ratio("evicted from its slot", "resident")
    headline["first_token_resident_over_base"] = ratio("resident", "base model")
    for way, found in seconds.items():
        yield {
            "part": "first token",
            "way": way,
            "ttft_s_median": round(statistics.median(found), 4),
            "ttft_s_min": round(min(found), 4),
            "ttft_s_max": round(max(found), 4),
            "over_resident": ratio(way, "resident"),
        }


def many(
    server: Server, bench: Bench, registered: int, requests: int, headline: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    started = time.perf_counter()
    cubes = [adapter(bench, layers=1) for _ in range(registered)]
    stored = time.perf_counter() - started
    before = resident_bytes(server)
    dice = random.Random(7)
    weights = [1 / (rank + 1) ** ZIPF for rank in range(registered)]
    chosen = dice.choices(cubes, weights, k=requests)
    failed = 0
    for cube in chosen:
        reply = bench.http.post("/v1/chat/completions", json=body_of(bench, cube))
        failed += reply.status_code != 200
    grown = resident_bytes(server) - before
    headline["zipf_failed_requests"] = failed
    headline["zipf_rss_growth_mib"] = round(grown / 2**20, 1)
    yield {
        "part": "many adapters",
        "registered": registered,
        "registered_per_second": round(registered / stored, 1),
        "requests": requests,
        "different": len(set(chosen)),
        "failed": failed,
        "rss_mib_before": round(before / 2**20, 1),
        "rss_mib_grown": round(grown / 2**20, 1),
    }


def mixed(bench: Bench, repetitions: int, headline: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The base model and four adapters, 32 tokens each: together against one by one."""
    ways = [None, *(adapter(bench) for _ in range(SLOTS))]

    def ask(http: httpx.Client, body: dict[str, Any]) -> None:
        http.post("/v1/chat/completions", json=body).raise_for_status()

    ratios = []
    with ThreadPoolExecutor(len(ways)) as pool:
        for repetition in range(repetitions + 1):
            seconds = []
            for together in (False, True):
                bodies = [{**body_of(bench, way, 32), "ignore_eos": True} for way in ways]
                started = time.perf_counter()
                if together:
                    list(pool.map(lambda body: ask(bench.http, body), bodies))
                else:
                    for body in bodies:
                        ask(bench.http, body)
                seconds.append(time.perf_counter() - started)
            if repetition:  # the first loads the adapters
                ratios.append(seconds[1] / seconds[0])
    headline["mixed_batch_over_sequential"] = round(statistics.median(ratios), 3)
    yield {
        "part": "mixed batch",
        "requests": len(ways),
        "tokens_each": 32,
        "together_over_one_by_one": round(statistics.median(ratios), 3),
    }


def resident_bytes(server: Server) -> int:
    """Resident memory of the server, its engine and its worker."""
    assert server._process is not None
    process = psutil.Process(server._process.pid)
    total: int = sum(p.memory_info().rss for p in (process, *process.children(recursive=True)))
    return total


if __name__ == "__main__":
    main()
