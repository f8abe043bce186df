"""`python -m benchmarks.locomo_retrieval [--data PATH] [--quick]`"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.locomo_retrieval import ours
from benchmarks.locomo_retrieval.dataset import (
    CATEGORIES,
    Conversation,
    Dataset,
    DataUnavailable,
    load,
)
from benchmarks.locomo_retrieval.metrics import mean_scores, score
from benchmarks.locomo_retrieval.rivals import rivals
from benchmarks.record import ROOT, Record, output_arguments
from memos_vllm.demo.embedder import WHEEL, demo_embedder_path
from memos_vllm.operator.embedder import Vectors
from memos_vllm.system import MemorySystem

DATA = ROOT.parent / "shared" / "data" / "locomo10.json"
DEPTH = 200
"""Turns ranked for each question. Turn recall looks at the first 20 only; the session level needs
more, because the first 20 turns often lie in fewer than ten sessions."""
QUICK_QUESTIONS = 20


@dataclasses.dataclass
class Scores:
    """What each system scored on each question, with the question's category."""

    by_system: dict[str, list[tuple[int, dict[str, float]]]] = dataclasses.field(
        default_factory=dict
    )
    query_ms: list[float] = dataclasses.field(default_factory=list)

    def add(self, system: str, category: int, scores: dict[str, float]) -> None:
        self.by_system.setdefault(system, []).append((category, scores))

    def rows(self) -> Iterator[dict[str, Any]]:
        for system, entries in self.by_system.items():
            row: dict[str, Any] = {"system": system, "kind": _kind(system)}
            yield row | _summary("all", [scores for _, scores in entries])
            for number, name in CATEGORIES.items():
                part = [scores for category, scores in entries if category == number]
                if part:
                    yield row | _summary(name, part)


async def measure(system: MemorySystem, dataset: Dataset, *, ablations: bool) -> Scores:
    scores = Scores()
    operators = ours.operators(system, ablations=ablations)
    system.embedder.warm()
    for conversation in dataset.conversations:
        start = time.perf_counter()
        session_of = {turn.id: turn.session for turn in conversation.turns}
        ours.remember(system, conversation)
        stored = time.perf_counter()
        embedded: dict[str, Vectors] = {}
        for question in conversation.questions:
            embedded[question.text], elapsed_ms = await ours.ask(system, conversation, question)
            scores.query_ms.append(elapsed_ms)
        rival_ranks = rivals(conversation, system.embedder.embed)
        for question in conversation.questions:
            ranked = {name: rank(question.text, DEPTH) for name, rank in rival_ranks.items()}
            for name, operator in operators.items():
                ranked[name] = ours.rank(
                    operator, conversation, question, embedded[question.text], DEPTH
                )
            for name, turns in ranked.items():
                scores.add(name, question.category, score(turns, question.evidence, session_of))
        done = time.perf_counter()
        print(
            f"{conversation.name}: {len(conversation.turns)} turns stored in {stored - start:.0f} s, "
            f"{len(conversation.questions)} questions in {done - stored:.0f} s",
            file=sys.stderr,
        )
    return scores


def record(dataset: Dataset, scores: Scores, system: MemorySystem, *, quick: bool) -> Record:
    rows = list(scores.rows())
    overall = {row["system"]: row for row in rows if row["category"] == "all"}
    p50, p99 = (round(float(np.percentile(scores.query_ms, at)), 3) for at in (50, 99))
    overall["ours"] |= {"query_ms_p50": p50, "query_ms_p99": p99}
    return Record(
        "locomo_retrieval",
        options="--quick" if quick else "",
        config={
            "data": f"LoCoMo locomo10.json, sha256 {dataset.sha256[:16]}",
            "conversations": len(dataset.conversations),
            "turns": sum(len(conversation.turns) for conversation in dataset.conversations),
            "questions": sum(len(conversation.questions) for conversation in dataset.conversations),
            "questions_left_out": dataset.left_out,
            "evidence_ids_dropped": dataset.ids_dropped,
            "ranked_turns": DEPTH,
            "embedder": f"all-MiniLM-L6-v2 from {WHEEL}",
            "embedder_threads": system.config.embedder.threads,
            "query_ms": f"embedding and search, top {ours.TIMED_TOP_K}, one at a time, no query cache",
            "retrieval": system.config.retrieval.model_dump(),
        },
        headline={
            "turn_recall_at_10": overall["ours"]["turn_recall_at_10"],
            "session_recall_at_10": overall["ours"]["session_recall_at_10"],
            "turn_mrr": overall["ours"]["turn_mrr"],
            "bm25_turn_recall_at_10": overall["bm25"]["turn_recall_at_10"],
            "dense_turn_recall_at_10": overall["dense"]["turn_recall_at_10"],
            "query_ms_p50": p50,
        },
        rows=rows,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.locomo_retrieval")
    parser.add_argument("--data", type=Path, default=DATA, help="locomo10.json")
    output_arguments(parser)
    arguments = parser.parse_args()
    try:
        dataset = load(arguments.data)
    except DataUnavailable as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.quick:
        dataset = _first_questions(dataset)
    with tempfile.TemporaryDirectory(prefix="memos-locomo-") as home:
        system = ours.open_system(Path(home), str(demo_embedder_path()))
        try:
            scores = asyncio.run(measure(system, dataset, ablations=not arguments.quick))
            made = record(dataset, scores, system, quick=arguments.quick)
        finally:
            system.close()
    for row in made.rows:
        if row["category"] == "all":
            print(f"{row['system']:24} {row['turn_recall_at_10']:.3f}", file=sys.stderr)
    made.finish(quick=arguments.quick, out=arguments.out)
    return 0


def _kind(system: str) -> str:
    if system == "ours":
        return "ours"
    return "ablation" if system in ours.ABLATIONS else "rival"


def _summary(category: str, scores: list[dict[str, float]]) -> dict[str, Any]:
    return {"category": category, "questions": len(scores)} | mean_scores(scores)


def _first_questions(dataset: Dataset) -> Dataset:
    first: Conversation = dataset.conversations[0]
    short = dataclasses.replace(first, questions=first.questions[:QUICK_QUESTIONS])
    return dataclasses.replace(dataset, conversations=(short,))


if __name__ == "__main__":
    sys.exit(main())
