"""`distinct` and `diverse`: steps that drop repeated content."""

from __future__ import annotations

import dataclasses

from memos_vllm.plaintext.search.search import Found
from memos_vllm.plaintext.tokens import tokenize
from memos_vllm.steps.state import Recall

_SAME = 0.9
_RELEVANCE = 0.5
"""Weight of the score in `diverse`; the rest is the weight of novelty: a repetition is worth nothing."""


def distinct(recall: Recall) -> Recall:
    """Drop items whose words a better item has already."""
    different: list[Found] = []
    seen: list[set[str]] = []
    for found in recall.found:
        words = _words(found)
        if words and any(len(words & other) >= _SAME * len(words) for other in seen):
            continue
        different.append(found)
        seen.append(words)
    return dataclasses.replace(recall, found=different)


def diverse(recall: Recall) -> Recall:
    """Maximal marginal relevance: as many items as before, chosen by score and novelty.

    Source: Carbonell and Goldstein, SIGIR 1998; similarity here is the share of common words.
    """
    pool = [(found, _words(found)) for found in (*recall.found, *recall.further)]
    scores = [found.score for found, _ in pool]
    best, worst = max(scores, default=0.0), min([0.0, *scores])
    width = (best - worst) or 1.0
    chosen: list[tuple[Found, set[str]]] = []

    def relevance(each: tuple[Found, set[str]]) -> float:
        found, words = each
        similarity = max((_jaccard(words, other) for _, other in chosen), default=0.0)
        return _RELEVANCE * (found.score - worst) / width - (1 - _RELEVANCE) * similarity

    while pool and len(chosen) < len(recall.found):
        chosen.append(
            pool.pop(max(range(len(pool)), key=lambda position: relevance(pool[position])))
        )
    return dataclasses.replace(
        recall,
        found=[found for found, _ in chosen],
        further=[found for found, _ in pool],
    )


def _words(found: Found) -> set[str]:
    return set(tokenize(found.recalled.item.text))


def _jaccard(words: set[str], others: set[str]) -> float:
    return len(words & others) / (len(words | others) or 1)
