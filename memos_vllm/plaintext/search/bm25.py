"""BM25 over an owner's items, from an array of token hashes.

Scores are computed per query from the postings of its tokens.  The index is the concatenated tokens
of all items, so it is rebuilt from per-cube parts at almost no cost after a change.  (A matrix of
finished scores, as in bm25s, must be recomputed after each change, since every score depends on the
number of items.)  A query costs one pass over the array per token: at 10,000 items less than the
rest of a search.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memos_vllm.plaintext.search.part_arrays import hashes_of
from memos_vllm.plaintext.tokens import tokenize

Scores = npt.NDArray[np.float32]
"""(num_items,), in the order of the owner's items."""
Integers = npt.NDArray[np.int64]
"""(num_items,), likewise, unless the field says otherwise."""

_K1, _B = 1.5, 0.75


class Postings(NamedTuple):
    """Items that have a token."""

    items: Integers
    """(num_postings,) positions of the items, ascending."""
    counts: Integers
    """(num_postings,) occurrences in each of them."""


@dataclasses.dataclass(frozen=True)
class TokenHashes:
    """Hashes of the tokens of a list of items, concatenated."""

    hashes: Integers
    """(num_tokens,) 64 bits each, of `hashes_of`."""
    lengths: Integers
    """(num_items,) tokens in each item."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> TokenHashes:
        tokens = [tokenize(text) for text in texts]
        return cls(
            hashes_of([token for row in tokens for token in row]),
            np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens)),
        )

    def rows(self) -> list[Integers]:
        """Hashes of each item."""
        return np.split(self.hashes, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []

    @classmethod
    def of_rows(cls, rows: Sequence[Integers]) -> TokenHashes:
        """As `rows`."""
        return cls(
            np.concatenate([np.zeros(0, dtype=np.int64), *rows]),
            np.fromiter(map(len, rows), dtype=np.int64, count=len(rows)),
        )

    @classmethod
    def joined(cls, parts: Sequence[TokenHashes]) -> TokenHashes:
        empty = np.zeros(0, dtype=np.int64)
        return cls(
            np.concatenate([empty, *(part.hashes for part in parts)]),
            np.concatenate([empty, *(part.lengths for part in parts)]),
        )


class Bm25:
    """BM25 over single items, and over windows of an item with the one before it.

    Source: Robertson and Zaragoza 2009, in Lucene's variant (Kamphuis et al. 2020), as in bm25s.
    """

    def __init__(self, tokens: TokenHashes, follows: npt.NDArray[np.bool_]) -> None:
        """
        Args:
            follows: (num_items,) whether an item's window has the item before it.
        """
        self._hashes = tokens.hashes
        self._follows = follows
        count = len(tokens.lengths)
        self._item = np.repeat(np.arange(count, dtype=np.int32), tokens.lengths)
        lengths = tokens.lengths.astype(np.float32)
        before = np.r_[np.float32(0), lengths[:-1]][:count] * follows
        self._penalty = _length_penalty(lengths)
        self._window_penalty = _length_penalty(lengths + before)

    def postings(self, word: str) -> Postings:
        """Postings of a token from `tokenize`."""
        return Postings(
            *np.unique(self._item[self._hashes == hashes_of([word])[0]], return_counts=True)
        )

    def turn_scores(self, asked: Sequence[Postings]) -> Scores:
        """BM25 of each item alone.

        Args:
            asked: postings of each token of a question; a repeated token counts again.
        """
        scores = np.zeros(len(self._follows), dtype=np.float32)
        for items, counts in asked:
            scores[items] += self._score(counts, self._penalty[items])
        return scores

    def window_scores(self, asked: Sequence[Postings]) -> Scores:
        """BM25 of each item together with the one before it."""
        scores = np.zeros(len(self._follows), dtype=np.float32)
        for items, counts in asked:
            if not len(items):
                continue
            in_window = np.zeros(len(scores) + 1, dtype=np.float32)
            in_window[items] = counts
            behind = items + 1
            inside = behind < len(scores)
            behind, added = behind[inside], counts[inside]
            behind, added = behind[self._follows[behind]], added[self._follows[behind]]
            in_window[behind] += added
            found = np.flatnonzero(in_window)
            scores[found] += self._score(in_window[found], self._window_penalty[found])
        return scores

    def _score(self, counts: Integers | Scores, penalty: Scores) -> Scores:
        idf = rarity(len(counts), len(self._follows))
        scores: Scores = idf * (counts / (counts + penalty)).astype(np.float32)
        return scores


def rarity(holders: int, of: int) -> np.float32:
    """IDF of a token that `holders` of `of` items have."""
    return np.float32(np.log1p((of - holders + 0.5) / (holders + 0.5)))


def _length_penalty(lengths: Scores) -> Scores:
    mean = float(lengths.mean()) if len(lengths) else 0.0
    return (_K1 * (1 - _B + _B * lengths / max(mean, 1e-9))).astype(np.float32)
