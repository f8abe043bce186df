"""Rivals on the same turns: stemmed BM25, cosine similarity (the served embedder, MiniLM), and the sum of
BM25 and cosine, each min-max scaled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer

from benchmarks.retrieval_general.datasets import Store
from memos_vllm.plaintext.embed.encoder import Vectors

Rank = Callable[[str, int], list[str]]
"""(question, depth) → turn ids, best first."""
Embed = Callable[[Sequence[str]], Vectors]
Scores = npt.NDArray[np.float32]


@dataclasses.dataclass
class EmbedOnce:
    """Cache in front of an embedder: stores and rivals share most texts."""

    embed: Embed
    known: dict[str, Vectors] = dataclasses.field(default_factory=dict)

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), dim); new texts go by length, as a batch is padded to its longest text."""
        new = sorted({text for text in texts if text not in self.known}, key=len)
        if new:
            self.known.update(zip(new, self.embed(new), strict=True))
        return np.stack([self.known[text] for text in texts])


class Rivals:
    def __init__(self, embedders: Mapping[str, Embed]) -> None:
        """
        Args:
            embedders: by the name of their rows; rows of length 1. The sum with BM25 has the first.
        """
        self._embedders = embedders

    def of(self, store: Store) -> dict[str, Rank]:
        """Rankers over a store, by the name in their rows."""
        ids = [turn.id for turn in store.turns]
        texts = [turn.text for turn in store.turns]
        asked = [question.text for question in store.questions]
        bm25 = _bm25(texts)
        cosines = {
            name: _cosine(embed(texts), dict(zip(asked, embed(asked), strict=True)))
            for name, embed in self._embedders.items()
        }
        first = next(iter(cosines.values()))

        def both(question: str) -> Scores:
            return _scaled(bm25(question)) + _scaled(first(question))

        scorers = {"bm25": bm25, **cosines, "bm25_and_cosine": both}
        return {name: _rank(scores, ids) for name, scores in scorers.items()}


def _cosine(vectors: Vectors, asked: Mapping[str, Vectors]) -> Callable[[str], Scores]:
    def scores(question: str) -> Scores:
        cosines: Scores = vectors @ asked[question]
        return cosines

    return scores


def _bm25(texts: Sequence[str]) -> Callable[[str], Scores]:
    stemmer = Stemmer.Stemmer("english")

    def words(text: Sequence[str]) -> list[list[str]]:
        return bm25s.tokenize(
            text, stopwords="english_plus", stemmer=stemmer, return_ids=False, show_progress=False
        )

    index = bm25s.BM25()
    index.index(words(texts), show_progress=False)

    def scores(question: str) -> Scores:
        known = [word for word in words([question])[0] if word in index.vocab_dict]
        return index.get_scores(known) if known else np.zeros(len(texts), dtype=np.float32)

    return scores


def _scaled(scores: Scores) -> Scores:
    low, high = float(scores.min()), float(scores.max())
    return (scores - low) / (high - low) if high > low else np.zeros_like(scores)


def _rank(scores: Callable[[str], Scores], ids: Sequence[str]) -> Rank:
    def rank(question: str, depth: int) -> list[str]:
        order = np.argsort(-scores(question), kind="stable")[:depth]
        return [ids[position] for position in order]

    return rank
