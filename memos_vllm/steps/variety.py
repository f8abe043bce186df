"""Steps against saying the same twice."""

from __future__ import annotations

import dataclasses

from memos_vllm.plaintext.search.search import Found
from memos_vllm.plaintext.tokens import tokenize
from memos_vllm.steps.state import Recall

_SAME = 0.9
_RELEVANCE = 0.7
"""Weight of the score, in `diverse`; the rest is how little of it was said already."""


def distinct(recall: Recall) -> Recall:
    """Without items that say no word more than a better one does."""
    kept: list[Found] = []
    seen: list[set[str]] = []
    for found in recall.found:
        words = _words(found)
        if words and any(len(words & other) >= _SAME * len(words) for other in seen):
            continue
        kept.append(found)
        seen.append(words)
    return dataclasses.replace(recall, found=kept)


def diverse(recall: Recall) -> Recall:
    """As many items as before, each chosen for its score and for saying what the others do not.

    Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), with shared words as likeness.
    """
    pool = [(found, _words(found)) for found in (*recall.found, *recall.further)]
    best = max((found.score for found, _ in pool), default=0.0) or 1.0
    chosen: list[tuple[Found, set[str]]] = []

    def worth(each: tuple[Found, set[str]]) -> float:
        found, words = each
        likeness = max((_likeness(words, other) for _, other in chosen), default=0.0)
        return _RELEVANCE * found.score / best - (1 - _RELEVANCE) * likeness

    while pool and len(chosen) < len(recall.found):
        chosen.append(pool.pop(max(range(len(pool)), key=lambda place: worth(pool[place]))))
    return dataclasses.replace(
        recall,
        found=[found for found, _ in chosen],
        further=[found for found, _ in pool],
    )


def _words(found: Found) -> set[str]:
    return set(tokenize(found.recalled.item.text))


def _likeness(words: set[str], others: set[str]) -> float:
    """Jaccard."""
    return len(words & others) / (len(words | others) or 1)
