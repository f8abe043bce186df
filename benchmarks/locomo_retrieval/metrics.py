"""Rank metrics for questions with several pieces of evidence, all equally relevant."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence

KS = (3, 5, 10, 20)
NDCG_AT = 10


def recall_at(ranked: Sequence[str], evidence: Collection[str], k: int) -> float:
    """Share of the evidence among the first k."""
    return len(set(evidence) & set(ranked[:k])) / len(set(evidence))


def reciprocal_rank(ranked: Sequence[str], evidence: Collection[str]) -> float:
    """1 / rank of the first piece of evidence; 0 when none was ranked."""
    return next((1 / rank for rank, item in enumerate(ranked, 1) if item in evidence), 0.0)


def ndcg_at(ranked: Sequence[str], evidence: Collection[str], k: int) -> float:
    """Discounted gain of the first k over that of the ideal ranking."""
    wanted = set(evidence)
    gain = sum(1 / math.log2(rank + 1) for rank, item in enumerate(ranked[:k], 1) if item in wanted)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
    return gain / ideal


def distinct(names: Iterable[str]) -> list[str]:
    """Unique names in order of first appearance, such as ranked sessions of ranked turns."""
    return list(dict.fromkeys(names))


def score(
    turns: Sequence[str], evidence: Collection[str], session_of: Mapping[str, str]
) -> dict[str, float]:
    """Every metric of one question, at turn and at session level.

    Args:
        turns: ranked turn ids, best first, without repeats.
        evidence: turn ids; at least one.
    """
    sessions = distinct(session_of[turn] for turn in turns)
    wanted = {session_of[turn] for turn in evidence}
    scores: dict[str, float] = {}
    for level, ranked, relevant in (("turn", turns, set(evidence)), ("session", sessions, wanted)):
        for k in KS:
            scores[f"{level}_recall_at_{k}"] = recall_at(ranked, relevant, k)
        scores[f"{level}_mrr"] = reciprocal_rank(ranked, relevant)
        scores[f"{level}_ndcg_at_{NDCG_AT}"] = ndcg_at(ranked, relevant, NDCG_AT)
    return scores


def mean_scores(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: round(statistics.fmean(one[name] for one in scores), 4) for name in scores[0]}
