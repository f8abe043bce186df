"""Words of items, and BM25 over them.

Scores are made when they are asked for, from the places where a word stands: an index that is no more
than its words in a row is joined from parts in no time, however often a memory changes.  (A matrix of
finished scores, as bm25s keeps one, has to be made anew after each change, since every score depends
on how many items there are.)  One pass over a row of numbers for each word asked: at 10,000 items less
than the rest of a search.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memos_vllm.plaintext.tokens import tokenize

Scores = npt.NDArray[np.float32]
"""(num_items,), in the order of the owner's items."""
Integers = npt.NDArray[np.int64]
"""(num_items,), likewise, or whatever is said where it stands."""

_K1, _B = 1.5, 0.75


class Postings(NamedTuple):
    """Where a word stands."""

    items: Integers
    """Positions, ascending."""
    counts: Integers
    """How often in each of them."""


@dataclasses.dataclass(frozen=True)
class Words:
    """The words of a row of items, one item behind the other."""

    hashes: Integers
    """(num_words,) 64 bits of each word, by this process's own secret: nothing is made to collide."""
    lengths: Integers
    """(num_items,) words in each item."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> Words:
        tokens = [tokenize(text) for text in texts]
        return cls(
            np.fromiter((hash(word) for words in tokens for word in words), dtype=np.int64),
            np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens)),
        )

    @classmethod
    def joined(cls, parts: Sequence[Words]) -> Words:
        empty = np.zeros(0, dtype=np.int64)
        return cls(
            np.concatenate([empty, *(part.hashes for part in parts)]),
            np.concatenate([empty, *(part.lengths for part in parts)]),
        )


class Bm25:
    """BM25 over items alone, and over items each behind the one before it.

    Source: Robertson and Zaragoza 2009, in Lucene's form (Kamphuis et al. 2020), as bm25s has it.
    """

    def __init__(self, words: Words, follows: npt.NDArray[np.bool_]) -> None:
        """Args: follows: (num_items,) whether an item stands behind the one before it."""
        self._hashes = words.hashes
        self._follows = follows
        count = len(words.lengths)
        self._item = np.repeat(np.arange(count, dtype=np.int32), words.lengths)
        lengths = words.lengths.astype(np.float32)
        before = np.r_[np.float32(0), lengths[:-1]][:count] * follows
        self._penalty = _length_penalty(lengths)
        self._window_penalty = _length_penalty(lengths + before)

    def postings(self, word: str) -> Postings:
        """Of a token as `tokenize` makes it."""
        return Postings(
            *np.unique(self._item[self._hashes == np.int64(hash(word))], return_counts=True)
        )

    def turn_scores(self, asked: Sequence[Postings]) -> Scores:
        """Args: asked: of each word of a question; a word that is in it twice counts twice."""
        scores = np.zeros(len(self._follows), dtype=np.float32)
        for items, counts in asked:
            scores[items] += self._score(counts, self._penalty[items])
        return scores

    def window_scores(self, asked: Sequence[Postings]) -> Scores:
        scores = np.zeros(len(self._follows), dtype=np.float32)
        for items, counts in asked:
            if not len(items):
                continue
            in_window = np.zeros(len(scores) + 1, dtype=np.float32)
            in_window[items] = counts
            behind = items + 1
            inside = behind < len(scores)
            behind, said = behind[inside], counts[inside]
            behind, said = behind[self._follows[behind]], said[self._follows[behind]]
            in_window[behind] += said
            found = np.flatnonzero(in_window)
            scores[found] += self._score(in_window[found], self._window_penalty[found])
        return scores

    def _score(self, counts: Integers | Scores, penalty: Scores) -> Scores:
        idf = rarity(len(counts), len(self._follows))
        scores: Scores = idf * (counts / (counts + penalty)).astype(np.float32)
        return scores


def rarity(holders: int, of: int) -> np.float32:
    """IDF of a word that so many hold."""
    return np.float32(np.log1p((of - holders + 0.5) / (holders + 0.5)))


def _length_penalty(lengths: Scores) -> Scores:
    mean = float(lengths.mean()) if len(lengths) else 0.0
    return (_K1 * (1 - _B + _B * lengths / max(mean, 1e-9))).astype(np.float32)
