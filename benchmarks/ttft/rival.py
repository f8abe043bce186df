"""vLLM with LMCache's own connector; the memory is text in the system message."""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.ttft.chat import Bench, first_event
from tests.engine.harness import MODEL, Server
from tests.engine.lmcache import LMCache

WAY, LIMIT = "LMCache alone", "LMCache alone, prefix cache warm"
QUESTION = "Which number belongs to the river?"


def lmcache_alone(
    folder: Path, sizes: dict[str, int], repetitions: int, flags: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Rows like the grid's: TTFT with KV from LMCache's memory, over the server's warm prefix cache."""
    folder.mkdir()
    rival = LMCache(folder)
    server = Server(
        folder,
        home=None,
        flags=("--kv-transfer-config", json.dumps(rival.connector), *flags),
        environment={
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_SERVER_DEV_MODE": "1",  # for /reset_prefix_cache
            "LMCACHE_TRACK_USAGE": "false",
        },
    )
    try:
        rival.start()
        with server.running() as running:
            return _measure(Bench(running), sizes, repetitions)
    finally:
        rival.close()


def _measure(bench: Bench, sizes: dict[str, int], repetitions: int) -> list[dict[str, Any]]:
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    cached: dict[tuple[str, str], int] = {}
    for seed, (name, tokens) in enumerate(sizes.items()):
        body = {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": bench.text(tokens, 90_000 + seed)},
                {"role": "user", "content": QUESTION},
            ],
            "temperature": 0,
        }
        first_event(bench.http, body)
        time.sleep(2)  # for LMCache to store it
        for _ in range(repetitions):
            for way in (LIMIT, WAY):
                if way == WAY:
                    bench.http.post("/reset_prefix_cache").raise_for_status()
                time.sleep(0.4)
                taken, cached[name, way] = first_event(bench.http, body)
                seconds[name, way].append(taken)
    return [
        {
            "memory": name,
            "way": way,
            "ttft_s_median": round(statistics.median(found), 4),
            "ttft_s_min": round(min(found), 4),
            "ttft_s_max": round(max(found), 4),
            "over_prefix_warm": round(
                statistics.median(
                    one / other for one, other in zip(found, seconds[name, LIMIT], strict=True)
                ),
                3,
            ),
            "cached_tokens": cached[name, way],
            "repetitions": len(found),
        }
        for (name, way), found in seconds.items()
    ]
