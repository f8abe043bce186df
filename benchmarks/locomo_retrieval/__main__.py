"""`python -m benchmarks.locomo_retrieval [--data PATH] [--quick]`"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.locomo_retrieval import ours, scale
from benchmarks.locomo_retrieval.dataset import (
    CATEGORIES,
    Conversation,
    Dataset,
    DataUnavailable,
    load,
)
from benchmarks.locomo_retrieval.metrics import KS, mean_scores, score
from benchmarks.locomo_retrieval.plot import plot
from benchmarks.locomo_retrieval.rivals import rivals
from benchmarks.locomo_retrieval.sweep import sweep
from benchmarks.record import ROOT, Record, output_arguments
from benchmarks.retrieval_general.fit import Example, fit
from memos_vllm.config.retrieval import RetrievalWeights
from memos_vllm.demo.embedder import MINILM_WHEEL, minilm_path
from memos_vllm.plaintext.embed.encoder import Vectors
from memos_vllm.system import MemorySystem

DATA = ROOT.parent / "shared" / "data" / "locomo10.json"
HELD_OUT = "ours_held_out"
DEPTH = 200
"""Turns ranked per question. Turn recall uses the first 20; session recall needs more, because the first
20 turns often lie in fewer than ten sessions."""
QUICK_QUESTIONS = 20


@dataclasses.dataclass
class Scores:
    """Scores of each system, per question, with the question's category."""

    by_system: dict[str, list[tuple[int, dict[str, float]]]] = dataclasses.field(
        default_factory=dict
    )
    query_ms: list[float] = dataclasses.field(default_factory=list)
    fitted: RetrievalWeights | None = None
    """Fitted on all conversations; the defaults are rounded from it."""

    def add(self, system: str, category: int, scores: dict[str, float]) -> None:
        self.by_system.setdefault(system, []).append((category, scores))

    def rows(self) -> Iterator[dict[str, Any]]:
        for system, entries in self.by_system.items():
            row: dict[str, Any] = {"part": "search", "system": system, "kind": _kind(system)}
            yield row | _summary("all", [scores for _, scores in entries])
            for number, name in CATEGORIES.items():
                part = [scores for category, scores in entries if category == number]
                if part:
                    yield row | _summary(name, part)


@dataclasses.dataclass
class EmbedOnce:
    """Cache in front of the embedder: the store of 10,000 items and the rivals share most texts."""

    embed: Callable[[Sequence[str]], Vectors]
    known: dict[str, Vectors] = dataclasses.field(default_factory=dict)

    def __call__(self, texts: Sequence[str]) -> Vectors:
        new = sorted({text for text in texts if text not in self.known}, key=len)
        self.known.update(zip(new, self.embed(new), strict=True))
        return np.stack([self.known[text] for text in texts])


@dataclasses.dataclass
class Stored:
    conversation: Conversation
    vectors: dict[str, Vectors]
    """Vector of each question, as memos_vllm embeds it."""
    examples: list[Example]


async def store(system: MemorySystem, conversation: Conversation, query_ms: list[float]) -> Stored:
    ours.remember(system, conversation)
    vectors: dict[str, Vectors] = {}
    examples = []
    for question in conversation.questions:
        vectors[question.text], elapsed_ms = await ours.ask(system, conversation, question)
        query_ms.append(elapsed_ms)
        examples.append(ours.example(system, conversation, question, vectors[question.text]))
    return Stored(conversation, vectors, examples)


async def measure(
    system: MemorySystem, dataset: Dataset, embed: EmbedOnce, *, ablations: bool
) -> Scores:
    scores = Scores()
    system.embedder.warm()
    every = []
    for conversation in dataset.conversations:
        every.append(await store(system, conversation, scores.query_ms))
        _say(f"{conversation.name}: {len(conversation.turns)} turns stored and asked for")
    if ablations:
        scores.fitted = fit([example for one in every for example in one.examples])
        _say(f"fitted on all: {scores.fitted}")
    for one in every:
        others = [example for other in every if other is not one for example in other.examples]
        weights = dict(ours.ABLATIONS) if ablations else {}
        if others:
            weights = {HELD_OUT: fit(others), **weights}
        _rank(system, one, embed, weights, scores)
        _say(f"{one.conversation.name}: ranked; held out: {weights.get(HELD_OUT)}")
    return scores


def _rank(
    system: MemorySystem,
    stored: Stored,
    embed: EmbedOnce,
    weights: Mapping[str, RetrievalWeights],
    scores: Scores,
) -> None:
    conversation = stored.conversation
    session_of = {turn.id: turn.session for turn in conversation.turns}
    tokens = {
        t.id: system.embedder.count_tokens(f"{t.speaker}: {t.text}") for t in conversation.turns
    }
    rival_ranks = rivals(conversation, embed)
    for question, example in zip(conversation.questions, stored.examples, strict=True):
        ranked = {name: rank(question.text, DEPTH) for name, rank in rival_ranks.items()}
        vector = stored.vectors[question.text]
        ranked["ours"] = ours.rank(system, conversation, question, vector, DEPTH)
        for name, one in weights.items():
            ranked[name] = ours.reweighted(example, one, DEPTH)
        for name, turns in ranked.items():
            found = score(turns, question.evidence, session_of)
            found |= {f"tokens_at_{k}": sum(tokens[t] for t in turns[:k]) for k in KS}
            scores.add(name, question.category, found)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def record(
    dataset: Dataset,
    scores: Scores,
    system: MemorySystem,
    further: list[dict[str, Any]],
    *,
    quick: bool,
) -> Record:
    rows = list(scores.rows())
    overall = {row["system"]: row for row in rows if row["category"] == "all"}
    p50, p99 = (round(float(np.percentile(scores.query_ms, at)), 3) for at in (50, 99))
    overall["ours"] |= {"query_ms_p50": p50, "query_ms_p99": p99}
    held_out = overall.get(HELD_OUT)
    large = next(row for row in further if row["part"] == "scale")
    headline = {
        "turn_recall_at_10": overall["ours"]["turn_recall_at_10"],
        "session_recall_at_10": overall["ours"]["session_recall_at_10"],
        "turn_mrr": overall["ours"]["turn_mrr"],
        "bm25_turn_recall_at_10": overall["bm25"]["turn_recall_at_10"],
        "dense_turn_recall_at_10": overall["dense"]["turn_recall_at_10"],
        "query_ms_p50": p50,
        f"query_ms_p50_{large['items']}_items": large["search_ms_p50"],
        f"query_ms_p99_{large['items']}_items": large["search_ms_p99"],
    }
    if held_out:
        headline["held_out_turn_recall_at_10"] = held_out["turn_recall_at_10"]
        headline["held_out_session_recall_at_10"] = held_out["session_recall_at_10"]
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
            "embedder": f"all-MiniLM-L6-v2 from {MINILM_WHEEL}",
            "embedder_threads": system.config.embedder.threads,
            "query_ms": f"embedding and search, top {ours.TIMED_TOP_K}, one at a time, no query cache",
            "retrieval": system.config.retrieval.model_dump(),
            "held_out": "each conversation searched with weights fitted on the others",
            "fitted_on_all": scores.fitted.model_dump() if scores.fitted else None,
        },
        headline=headline,
        rows=rows + further,
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
        system = ours.open_system(Path(home), str(minilm_path()))
        try:
            made = run(system, dataset, quick=arguments.quick)
        finally:
            system.close()
    for row in made.rows:
        if row.get("category") == "all":
            print(f"{row['system']:24} {row['turn_recall_at_10']:.3f}", file=sys.stderr)
    written = made.finish(quick=arguments.quick, out=arguments.out)
    picture = plot([row for row in made.rows if row["part"] == "chunks"])
    written.with_suffix(".svg").write_text(picture, encoding="utf-8")
    return 0


def run(system: MemorySystem, dataset: Dataset, *, quick: bool) -> Record:
    once = EmbedOnce(system.embedder.embed)
    with mock.patch.object(system.embedder, "embed", once):
        scores = asyncio.run(measure(system, dataset, once, ablations=not quick))
        items, asked = (200, 5) if quick else (scale.ITEMS, 200)
        large = asyncio.run(scale.measure(system, dataset, items, asked))
        _say(f"one person with {items} items: {large}")
        chunks = sweep(dataset, once, system.embedder.count_tokens)
    return record(dataset, scores, system, [large, *chunks], quick=quick)


def _kind(system: str) -> str:
    if system == "ours":
        return "ours"
    return "ablation" if system in ours.ABLATIONS else "held out" if system == HELD_OUT else "rival"


def _summary(category: str, scores: list[dict[str, float]]) -> dict[str, Any]:
    return {"category": category, "questions": len(scores)} | mean_scores(scores)


def _first_questions(dataset: Dataset) -> Dataset:
    first: Conversation = dataset.conversations[0]
    short = dataclasses.replace(first, questions=first.questions[:QUICK_QUESTIONS])
    return dataclasses.replace(dataset, conversations=(short,))


if __name__ == "__main__":
    sys.exit(main())
