"""`python -m benchmarks.ttft [--repetitions 7] [--quick]`: time to first token with loaded KV.

One server, no other load.  Every source of the memory's KV is measured in each repetition; the result is
the median of the ratios within a repetition.  The limit is vLLM's own prefix cache, fully warm, because
attention over the memory is computed in any case.  Loads from disk follow a restart of all processes, with
the files dropped from the page cache.  Correctness is checked on the same model in float32 (exact) and
bfloat16 (near).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.record import RESULTS, Record, output_arguments
from benchmarks.ttft.chat import Bench
from benchmarks.ttft.grid import DISK, FETCHED, QUESTIONS, SIZES, Grid
from benchmarks.ttft.plot import plot
from benchmarks.ttft.rightness import healing, identical_share, nearness
from benchmarks.ttft.rival import lmcache_alone
from benchmarks.ttft.turns import ten_turns
from tests.engine.harness import Server

CONTEXT = 8192
FLAGS = ("--max-model-len", str(CONTEXT), "--max-logprobs", "1000", "--dtype", "bfloat16")
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "MEMOS__PROMPT__CONTEXT_SHARE": "1",
    "MEMOS__KV__NEAR_HEAL": "false",
    "MEMOS__KV__PREFETCH": "false",
    "MEMOS__KV__SHARED_BLOCKS": "false",  # the request of a new person loads
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=7)
    output_arguments(parser)
    arguments = parser.parse_args()
    quick = arguments.quick
    repetitions = 2 if quick else arguments.repetitions
    sizes = {"1k": 1024} if quick else SIZES
    questions = QUESTIONS[:1] if quick else QUESTIONS
    record = Record(
        "ttft", config={"context": CONTEXT, "block_size": 32, "repetitions": repetitions}
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with server(folder / "bf16").running() as running:
            bench = Bench(running)
            grid = Grid(bench, repetitions, prefills=min(repetitions, 3))
            grid.prepare(sizes)
            grid.run(questions)
            record.headline |= ratios(grid, sizes)
            turns, turn_rows = ten_turns(bench)
            near, near_rows = nearness(bench, 6 if quick else 60)
            bench.restart()
            grid.run_from_disk(questions[:1])
            bench.restart(MEMOS__KV__PREFETCH="true", MEMOS__KV__NEAR_HEAL="true")
            time.sleep(5)
            grid.run_fetched(questions[:1])
            healed, healing_rows = healing(bench, 6 if quick else 60)
            record.headline |= disk_ratios(grid, sizes) | turns | near | healed
        rival = lmcache_alone(folder / "lmcache", sizes, repetitions, FLAGS)
        with server(folder / "f32", "--dtype", "float32").running() as running:
            share, exact_rows = identical_share(Bench(running), 2 if quick else 20)
    record.headline["exact_identical_share"] = share
    rows = grid.rows()
    record.rows = [
        *({"part": "grid", **row} for row in rows),
        *({"part": "turns", **row} for row in turn_rows),
        *({"part": "healing", **row} for row in healing_rows),
        *({"part": "LMCache", **row} for row in rival),
        *({"part": "near", **row} for row in near_rows),
        *({"part": "exact, float32", **row} for row in exact_rows),
    ]
    target = record.finish(quick=quick, out=arguments.out)
    if target.parent == RESULTS or quick:
        target.with_suffix(".svg").write_text(plot(rows), encoding="utf-8")


def server(folder: Path, *flags: str) -> Server:
    folder.mkdir()
    return Server(folder, home=folder / "home", flags=(*FLAGS, *flags), environment=ENVIRONMENT)


def ratios(grid: Grid, sizes: dict[str, int]) -> dict[str, float]:
    found = {}
    for name in ("1k", "4k", "6k"):
        if name in sizes:
            found[f"exact_ram_over_prefix_warm_{name}"] = grid.ratio(
                name, 40, "exact, RAM", "prefix cache warm"
            )
    if "6k" in sizes:
        found["attention_share_of_limit_6k"] = round(
            1 - grid.ratio("6k", 40, "no memory", "prefix cache warm"), 3
        )
        found["near_over_exact_6k"] = grid.ratio("6k", 40, "near", "exact, RAM")
        found["reduction_vs_prefill_6k_short"] = round(
            1 - grid.ratio("6k", 40, "exact, RAM", "full prefill"), 4
        )
    return found


def disk_ratios(grid: Grid, sizes: dict[str, int]) -> dict[str, float]:
    ways = {"disk": DISK, "fetched": FETCHED}
    return {
        f"exact_{short}_over_prefix_warm_{name}": grid.ratio(
            name, 40, way, "prefix cache warm, restarted"
        )
        for short, way in ways.items()
        for name in ("1k", "4k", "6k")
        if name in sizes
    }


if __name__ == "__main__":
    main()
