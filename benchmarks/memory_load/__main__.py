"""`python -m benchmarks.memory_load [--data locomo10.json] [--rivals PYTHON] [--quick]`

Memory is added and searched at fixed rates, each system in its own process behind HTTP: memos_vllm is the
Memory API with vault, Chroma and embedder, without an engine; the rivals run in thin servers with the same
embedder and store the text unchanged: mem0 (`infer=False`) with Chroma, and MemOS's reference implementation
(general text memory) with Qdrant in local mode.  Arrivals follow a schedule that is fixed in advance, and
latency is counted from the scheduled arrival.

alone   one request after the other: median latency; and recall@10 of search, with LoCoMo
load    each rate in turn, the systems one after the other at the same rate
behind  a search right after an addition to the same person's memory
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.locomo_retrieval.dataset import DataUnavailable, Turn
from benchmarks.locomo_retrieval.metrics import recall_at
from benchmarks.memory_load.data import Workload, workload
from benchmarks.memory_load.load import (
    CONNECTIONS,
    TIMEOUT_SECONDS,
    Request,
    arrivals,
    offer,
    summary,
)
from benchmarks.memory_load.systems import (
    TOP_K,
    Kind,
    Mem0,
    Ours,
    OursHalf,
    Reference,
    System,
    importable,
    mem0,
    ours,
    reference,
    running,
)
from benchmarks.record import Record, output_arguments
from memos_vllm.demo.embedder import MINILM_WHEEL

RATES = (10, 20, 40, 60, 80, 100)
QUICK_RATES = (10,)
SECONDS, QUICK_SECONDS = 10.0, 2.0
ALONE, QUICK_ALONE = 50, 5
SHORT = {Ours.name: "ours", OursHalf.name: "ours_bfloat16", Reference.name: "reference"}
RIVALS = {"mem0": (Mem0.name, "mem0ai", mem0), "memos": (Reference.name, "MemoryOS", reference)}
"""By module to import: name of the system, its package, and its start."""


class Additions:
    """New turns to add; starts over when all were added."""

    def __init__(self, load: Workload) -> None:
        self._turns = itertools.cycle(load.added)

    def next(self, count: int) -> list[tuple[str, Turn]]:
        return list(itertools.islice(self._turns, count))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="locomo10.json; default: generated text")
    parser.add_argument(
        "--rivals", type=Path, help="Python of an environment with mem0ai, MemoryOS or both"
    )
    output_arguments(parser)
    arguments = parser.parse_args()
    try:
        load = workload(arguments.data, quick=arguments.quick)
    except DataUnavailable as error:
        print(error, file=sys.stderr)
        return 2
    kinds = ours()[: 1 if arguments.quick else None] + rivals(arguments.rivals)
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memos-load-")))
        systems = [stack.enter_context(running(kind, home / kind.system.name)) for kind in kinds]
        given = [("--data locomo10.json", arguments.data), ("--rivals PYTHON", arguments.rivals)]
        options = " ".join(option for option, value in given if value is not None)
        record = Record("memory_load", options, config=_config(load, systems, arguments.quick))
        asyncio.run(measure(record, systems, load, quick=arguments.quick))
    record.headline |= _headline(record.rows)
    record.finish(quick=arguments.quick, out=arguments.out)
    return 0


def rivals(python: Path | None) -> list[Kind]:
    """Rivals that this Python can import; the others are reported on stderr."""
    there = importable(python, RIVALS) if python else set()
    kinds = []
    for module, (name, package, kind) in RIVALS.items():
        if python and module in there:
            kinds.append(kind(python))
        else:
            _say(f"{name} is not measured: --rivals PYTHON names an environment that has {package}")
    return kinds


async def measure(
    record: Record, systems: Sequence[System], load: Workload, *, quick: bool
) -> None:
    rates = QUICK_RATES if quick else RATES
    seconds = QUICK_SECONDS if quick else SECONDS
    count = QUICK_ALONE if quick else ALONE
    additions = Additions(load)

    def note(row: dict[str, Any]) -> None:
        record.rows.append(row)
        _say(json.dumps(row))

    for system in systems:
        for conversation in load.stored:
            await system.store(conversation)
    recalled = list(load.questions())[: count if quick else None]
    for system in systems:
        note(await alone(system, load, additions.next(count), recalled))
    for rate in rates:
        for operation in ("add", "search"):
            turns = additions.next(round(rate * seconds))
            for system in systems:
                request = _request(system, operation, load, turns)
                note(await at_rate(system, operation, rate, seconds, request))
    for system in systems:
        note(await behind(system, load, additions.next(count)))
        await system.http.aclose()


async def alone(
    system: System,
    load: Workload,
    turns: Sequence[tuple[str, Turn]],
    questions: Sequence[tuple[str, Any]],
) -> dict[str, Any]:
    """Latency of one request at a time, and recall of every question."""
    added, searched, recall = [], [], []
    for person, turn in turns:
        added.append(await _timed(system.add(person, turn)))
    for person, question in questions:
        start = time.perf_counter()
        found = await system.search(person, question.text)
        searched.append(1000 * (time.perf_counter() - start))
        recall.append(recall_at(found, question.evidence, TOP_K))
    return {
        "part": "alone",
        "system": system.name,
        "added": len(added),
        "add_ms_p50": round(statistics.median(added), 1),
        "searches": len(searched),
        "search_ms_p50": round(statistics.median(searched), 1),
        f"recall_at_{TOP_K}": round(statistics.fmean(recall), 4) if load.scored else None,
    }


async def at_rate(
    system: System,
    operation: str,
    rate: int,
    seconds: float,
    request: Request,
) -> dict[str, Any]:
    """Latencies of one operation at one rate, and the processor time of each party until the last answer."""
    before, start = _cpu_seconds(system), time.perf_counter()
    outcomes = await offer(arrivals(rate, seconds), request)
    took = time.perf_counter() - start
    cores = {
        name: round((now - before[name]) / took, 2) for name, now in _cpu_seconds(system).items()
    }
    row = {"part": "load", "operation": operation, "rate": rate, "system": system.name}
    return row | summary(outcomes, seconds) | cores


def _cpu_seconds(system: System) -> dict[str, float]:
    """Processor time so far: of the system, of this client, and of all other processes."""
    own, every, used = psutil.Process().cpu_times(), psutil.cpu_times(), system.cpu_seconds()
    client = own.user + own.system
    busy = sum(every) - every.idle - every.iowait - every.guest - every.guest_nice
    return {
        "cores_used": used,
        "cores_used_by_client": client,
        "cores_used_by_others": busy - client - used,
    }


async def behind(
    system: System, load: Workload, turns: Sequence[tuple[str, Turn]]
) -> dict[str, Any]:
    """Latency of a search right after a change. Runs last, because it changes the searched memory."""
    times = []
    for (person, question), (_, turn) in zip(load.questions(), turns, strict=False):
        await system.add(person, turn)
        times.append(await _timed(system.search(person, question.text)))
    return {
        "part": "behind",
        "system": system.name,
        "searches": len(times),
        "search_ms_p50": round(statistics.median(times), 1),
    }


def _request(
    system: System, operation: str, load: Workload, turns: Sequence[tuple[str, Turn]]
) -> Request:
    if operation == "add":
        return lambda number: system.add(*turns[number])
    questions = list(load.questions())

    def search(number: int) -> Coroutine[Any, Any, object]:
        person, question = questions[number % len(questions)]
        return system.search(person, question.text)

    return search


async def _timed(request: Awaitable[object]) -> float:
    start = time.perf_counter()
    await request
    return 1000 * (time.perf_counter() - start)


def _config(load: Workload, systems: Sequence[System], quick: bool) -> dict[str, Any]:
    return {
        "data": load.name,
        "people_searched": len(load.stored),
        "turns_stored": sum(len(one.turns) for one in load.stored),
        "questions": sum(len(one.questions) for one in load.stored),
        "seconds_at_a_rate": QUICK_SECONDS if quick else SECONDS,
        "arrivals": "Poisson, the same for each system; a latency is counted from the arrival",
        "connections": CONNECTIONS,
        "timeout_seconds": TIMEOUT_SECONDS,
        "top_k": TOP_K,
        "embedder": f"all-MiniLM-L6-v2 from {MINILM_WHEEL}, no query cache",
        "add": "one turn, for people who are not searched; it can be found when the request returns",
        "systems": {
            system.name: {key: value for key, value in system.ready.items() if key != "port"}
            for system in systems
        },
    }


def _headline(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    headline: dict[str, float] = {}
    for row in _of(rows, "load"):
        if row["rate"] == max(other["rate"] for other in _of(rows, "load")):
            name = f"{_short(row)}_{row['operation']}_{row['rate']}_qps"
            headline |= {f"{name}_success": row["success_rate"], f"{name}_ms_p99": row["ms_p99"]}
    for row in _of(rows, "alone"):
        names = ("add_ms_p50", "search_ms_p50", f"recall_at_{TOP_K}")
        headline |= {f"{_short(row)}_{name}": row[name] for name in names if row[name] is not None}
    return headline


def _of(rows: Sequence[dict[str, Any]], part: str) -> Iterator[dict[str, Any]]:
    return (row for row in rows if row["part"] == part)


def _short(row: dict[str, Any]) -> str:
    return SHORT.get(row["system"], str(row["system"]))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
