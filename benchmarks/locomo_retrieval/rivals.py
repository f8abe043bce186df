"""Rivals: BM25 and cosine similarity over single turns.

Each in two settings: the defaults of its library over the bare text, and a tuned one with the speaker's
name in front (both) and stemming with the long stop-word list (BM25).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import bm25s
import numpy as np
import Stemmer

from benchmarks.locomo_retrieval.dataset import Conversation
from memos_vllm.plaintext.embed.encoder import Vectors

Rank = Callable[[str, int], list[str]]
"""(question, depth) → turn ids, best first."""


def bm25(texts: Sequence[str], ids: Sequence[str], *, stop_words: str, stem: bool) -> Rank:
    stemmer = Stemmer.Stemmer("english") if stem else None

    def words(text: Sequence[str]) -> list[list[str]]:
        return bm25s.tokenize(
            text, stopwords=stop_words, stemmer=stemmer, return_ids=False, show_progress=False
        )

    index = bm25s.BM25()
    index.index(words(texts), show_progress=False)

    def rank(question: str, depth: int) -> list[str]:
        known = [word for word in words([question])[0] if word in index.vocab_dict]
        if not known:
            return []
        scores = index.get_scores(known)
        order = np.argsort(-scores, kind="stable")[:depth]
        return [ids[position] for position in order if scores[position] > 0]

    return rank


def cosine(vectors: Vectors, ids: Sequence[str], embedded: dict[str, Vectors]) -> Rank:
    """Exact search. vectors: (num_turns, dim) and embedded questions: (dim,), of length 1."""

    def rank(question: str, depth: int) -> list[str]:
        order = np.argsort(-(vectors @ embedded[question]), kind="stable")[:depth]
        return [ids[position] for position in order]

    return rank


def rivals(
    conversation: Conversation, embed: Callable[[Sequence[str]], Vectors]
) -> dict[str, Rank]:
    """Rankers of every rival over one conversation, by the name in their rows.

    Rivals embed the question unchanged; memos_vllm leaves out the names that lexical signals find.
    """
    ids = [turn.id for turn in conversation.turns]
    plain = [turn.text for turn in conversation.turns]
    named = [f"{turn.speaker}: {turn.text}" for turn in conversation.turns]
    questions = [question.text for question in conversation.questions]
    embedded = dict(zip(questions, _by_length(embed, questions), strict=True))
    return {
        "bm25_plain": bm25(plain, ids, stop_words="english", stem=False),
        "bm25": bm25(named, ids, stop_words="english_plus", stem=True),
        "dense": cosine(_by_length(embed, plain), ids, embedded),
        "dense_named": cosine(_by_length(embed, named), ids, embedded),
    }


def _by_length(embed: Callable[[Sequence[str]], Vectors], texts: list[str]) -> Vectors:
    """Embed texts sorted by length: a batch is padded to its longest text."""
    order = sorted(range(len(texts)), key=lambda position: len(texts[position]))
    vectors = embed([texts[position] for position in order])
    return vectors[np.argsort(order)]
