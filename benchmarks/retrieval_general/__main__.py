"""`python -m benchmarks.retrieval_general [--data FOLDER] [--embedder granite|minilm] [--quick]`

Retrieval on several data sets, by weights that were fitted on the others (leave one data set out), beside
stemmed BM25, cosine similarity and their sum in the same run.  The default weights are rounded from the fit
on all.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.locomo_retrieval.metrics import recall_at, score
from benchmarks.record import ROOT, Record, output_arguments
from benchmarks.retrieval_general import ours
from benchmarks.retrieval_general.datasets import Store, load
from benchmarks.retrieval_general.fit import fit
from benchmarks.retrieval_general.rivals import EmbedOnce, Rivals
from memos_vllm.config.retrieval import RetrievalWeights
from memos_vllm.config.tree import EmbedderConfig
from memos_vllm.demo.embedder import demo_embedder_path, minilm_path
from memos_vllm.plaintext.embed.embedder import Embedder

DATA = ROOT.parent / "shared" / "data"
DEPTH = 200
"""Turns ranked per question: session recall needs more than ten."""
BY_DESIGN = {"reply_penalty": 4.0, "reply_boost": 4.0}
"""Not fitted where LongMemEval is left out, as only it has an assistant's replies: own words come first."""
_FIELDS = (
    *("turn_recall_at_1", "turn_recall_at_5", "turn_recall_at_10", "turn_mrr"),
    *("session_recall_at_5", "session_recall_at_10"),
)
_EMBEDDERS = {"granite": demo_embedder_path, "minilm": minilm_path}
Row = tuple[str, str, str, dict[str, float]]
"""System, part, category, scores of one question."""


async def measure(stores: Sequence[Store], embedder: str) -> tuple[list[Row], dict[str, Any]]:
    rows: list[Row] = []
    asked: list[ours.Asked] = []
    minilm = Embedder(EmbedderConfig(model=str(minilm_path())))
    with tempfile.TemporaryDirectory(prefix="memos-retrieval-") as home:
        system = ours.open_system(Path(home), str(_EMBEDDERS[embedder]()))
        try:
            system.embedder.warm()
            once = EmbedOnce(system.embedder.embed)
            rivals = Rivals({"cosine": once, "cosine_minilm": EmbedOnce(minilm.embed)})
            with mock.patch.object(system.embedder, "embed", once):
                for number, store in enumerate(stores, 1):
                    asked += await ours.ask_all(system, store)
                    rows += list(_rival_rows(rivals, store))
                    _say(f"{number} of {len(stores)}: {store.name} ({store.part})")
        finally:
            system.close()
            minilm.close()
    fits: dict[str, Any] = {}
    families = sorted({one.store.family for one in asked})
    for name, weights in _weights(asked, families, fits):
        rows += [_scored(name(one), one, weights(one)) for one in asked]
    return rows, fits


def _weights(
    asked: Sequence[ours.Asked], families: Sequence[str], fits: dict[str, Any]
) -> Iterator[tuple[Any, Any]]:
    """Names and weights of our rows, each as a function of the question."""
    default = RetrievalWeights()
    yield (lambda one: "ours"), (lambda one: default)
    if len(families) < 2:
        return
    left_out: dict[str, RetrievalWeights] = {}
    for family in families:
        others = [one.example for one in asked if one.store.family != family]
        left_out[family] = fit(others, BY_DESIGN if family == "LongMemEval" else None)
        fits[f"without {family}"] = left_out[family].model_dump()
        _say(f"fitted without {family}: {left_out[family]}")
    together = fit([one.example for one in asked])
    fits["on all"] = together.model_dump()
    _say(f"fitted on all: {together}")
    yield (lambda one: "ours_left_out"), (lambda one: left_out[one.store.family])
    yield (lambda one: "ours_fitted_on_all"), (lambda one: together)


def _scored(name: str, one: ours.Asked, weights: RetrievalWeights) -> Row:
    turns = ours.ranked(one.example, weights, DEPTH)
    return (
        name,
        one.store.part,
        one.question.category,
        _scores(turns, one.store, one.question.evidence),
    )


def _rival_rows(rivals: Rivals, store: Store) -> Iterator[Row]:
    ranks = rivals.of(store)
    for question in store.questions:
        for name, rank in ranks.items():
            turns = rank(question.text, DEPTH)
            yield name, store.part, question.category, _scores(turns, store, question.evidence)


def _scores(turns: Sequence[str], store: Store, evidence: frozenset[str]) -> dict[str, float]:
    found = score(turns, evidence, ours.session_of(store))
    found["turn_recall_at_1"] = recall_at(turns, evidence, 1)
    return {name: found[name] for name in _FIELDS}


def summaries(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Means by system and part, over all questions and by category."""
    groups: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for system, part, category, scores in rows:
        groups.setdefault((part, system, "all"), []).append(scores)
        groups.setdefault((part, system, category), []).append(scores)
    for (part, system, category), found in sorted(groups.items()):
        means = {name: round(statistics.fmean(one[name] for one in found), 4) for name in _FIELDS}
        yield {
            "part": part,
            "system": system,
            "category": category,
            "questions": len(found),
            **means,
        }


def headline(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Ours on data left out whole, and its distance from the best single baseline."""
    found: dict[str, float] = {}
    overall = [row for row in rows if row["category"] == "all"]
    for part in dict.fromkeys(row["part"] for row in overall):
        of_part = {row["system"]: row for row in overall if row["part"] == part}
        one = of_part.get("ours_left_out", of_part["ours"])
        short = part.lower().replace(", ", "_").replace(" ", "_")
        for name in ("turn_recall_at_5", "turn_recall_at_10", "session_recall_at_10"):
            found[f"{short}_{name}"] = one[name]
            best = max(of_part[rival][name] for rival in ("bm25", "cosine", "cosine_minilm"))
            found[f"{short}_{name}_over_best_baseline"] = round(one[name] - best, 4)
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _first(stores: Sequence[Store]) -> list[Store]:
    """One small store of each part, for a smoke run."""
    chosen: dict[str, Store] = {}
    for store in stores:
        if len(store.turns) <= 1000:
            chosen.setdefault(store.part, dataclasses.replace(store, questions=store.questions[:8]))
    return list(chosen.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval_general")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--embedder", choices=_EMBEDDERS, default="granite")
    output_arguments(parser)
    arguments = parser.parse_args()
    stores, digests = load(arguments.data)
    if not stores:
        print(f"no data set is in {arguments.data}: name its folder with --data", file=sys.stderr)
        return 2
    if arguments.quick:
        stores = _first(stores)
    rows, fits = asyncio.run(measure(stores, arguments.embedder))
    found = list(summaries(rows))
    record = Record(
        "retrieval_general",
        options=f"--embedder {arguments.embedder}" + (" --quick" if arguments.quick else ""),
        config={
            "data": digests,
            "embedder": arguments.embedder,
            "fits": fits,
            "defaults": RetrievalWeights().model_dump(),
            "left_out": "each data set searched with weights fitted on the other data sets",
        },
        headline=headline(found),
        rows=found,
    )
    for row in found:
        if row["category"] == "all":
            _say(
                f"{row['part']:26} {row['system']:20} {row['turn_recall_at_5']:.3f} "
                f"{row['turn_recall_at_10']:.3f} {row['session_recall_at_10']:.3f}"
            )
    record.finish(quick=arguments.quick, out=arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
