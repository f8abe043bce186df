"""Lexical search: BM25 (bm25s), one index in memory for each owner, built from the vault's rows.

An index of its own means that word statistics are the owner's alone: no score tells anything about
anybody else's memory.  An index is rebuilt when its owner's revision has moved on.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer
from bm25s.stopwords import STOPWORDS_EN_PLUS

from memos_vllm.vault.items import IndexedItem, Owner

Scores = npt.NDArray[np.float32]
"""(num_items,), in the order of the owner's items."""

_WORD = re.compile(r"\w+")
_STOPWORDS = frozenset(STOPWORDS_EN_PLUS)  # with question words and pronouns
_local = threading.local()


def tokenize(text: str) -> list[str]:
    """Lower-case words without English stop words, stemmed (Snowball)."""
    if not hasattr(_local, "stemmer"):
        _local.stemmer = Stemmer.Stemmer("english")  # a stemmer is not safe across threads
    words = [word for word in _WORD.findall(text.lower()) if word not in _STOPWORDS]
    stems: list[str] = _local.stemmer.stemWords(words)
    return stems


@dataclasses.dataclass(frozen=True)
class OwnerIndex:
    """Everything that one owner's items are searched with."""

    revision: int
    items: list[IndexedItem]
    position: dict[str, int]
    speakers: frozenset[str]
    turns: bm25s.BM25 | None
    windows: bm25s.BM25 | None

    @classmethod
    def build(cls, revision: int, items: list[IndexedItem]) -> OwnerIndex:
        return cls(
            revision,
            items,
            {item.id: position for position, item in enumerate(items)},
            frozenset(item.speaker for item in items if item.speaker),
            _bm25([item.turn for item in items]),
            _bm25([item.window for item in items]),
        )

    def turn_scores(self, words: Sequence[str]) -> Scores:
        return self._scores(self.turns, words)

    def window_scores(self, words: Sequence[str]) -> Scores:
        return self._scores(self.windows, words)

    def _scores(self, index: bm25s.BM25 | None, words: Sequence[str]) -> Scores:
        known = [word for word in words if index is not None and word in index.vocab_dict]
        if index is None or not known:
            return np.zeros(len(self.items), dtype=np.float32)
        scores: Scores = index.get_scores(known)
        return scores


class LexicalCache:
    def __init__(self, load: Callable[[Owner], list[IndexedItem]], capacity: int) -> None:
        self._load = load
        self._capacity = capacity
        self._lock = threading.Lock()
        self._building: dict[Owner, threading.Lock] = {}
        self._indexes: OrderedDict[Owner, OwnerIndex] = OrderedDict()

    def get(self, owner: Owner, revision: int) -> OwnerIndex:
        """The owner's index, at this revision or a later one."""
        with self._lock:
            found = self._indexes.get(owner)
            if found is not None and found.revision >= revision:
                self._indexes.move_to_end(owner)
                return found
            building = self._building.setdefault(owner, threading.Lock())
        with building:
            with self._lock:
                found = self._indexes.get(owner)
            if found is None or found.revision < revision:
                found = OwnerIndex.build(revision, self._load(owner))
                with self._lock:
                    self._indexes[owner] = found
                    while len(self._indexes) > self._capacity:
                        self._indexes.popitem(last=False)
        with self._lock:
            self._building.pop(owner, None)
        return found


def _bm25(texts: list[str]) -> bm25s.BM25 | None:
    tokens = [tokenize(text) for text in texts]
    if not any(tokens):
        return None
    index = bm25s.BM25(method="lucene")
    index.index(tokens, show_progress=False)
    return index
