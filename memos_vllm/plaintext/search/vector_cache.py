"""Cache of owners' vectors as matrices, for exact search in memory.

Chroma's filtered query reads an owner's ids from its database each time: at 10,000 items that is most
of a search (benchmarks/locomo_retrieval measures ours).  With matrices, a search is one product, every
item has a score, and nothing is approximate.  Chroma remains the store: rows are read at an owner's
first search, and after a change only the changed ones.
"""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
from cachetools import LRUCache

from memos_vllm.plaintext.embed.encoder import Vectors
from memos_vllm.plaintext.search.bm25 import Scores
from memos_vllm.plaintext.search.owner_index import OwnerIndex
from memos_vllm.plaintext.search.vector_store import VIEWS, VectorIndex, View
from memos_vllm.vault.items import Owner

_RETRY_SECONDS = 1.0
_FLOAT_BYTES = 4


@dataclasses.dataclass(slots=True)
class _Matrices:
    index: OwnerIndex
    rows: dict[View, Vectors]
    """(num_items, dim) for each view, in the order of the index's items; NaN: not in Chroma yet."""
    retry_at: float
    """Monotonic time to read missing rows again; infinite: complete."""

    @property
    def bytes(self) -> int:
        return sum(rows.nbytes for rows in self.rows.values())


class VectorCache:
    def __init__(self, index: VectorIndex, limit_bytes: int) -> None:
        self._index = index
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._cache: LRUCache[Owner, _Matrices] = LRUCache(
            limit_bytes, getsizeof=lambda cached: cached.bytes
        )

    def fits(self, index: OwnerIndex, dim: int) -> bool:
        """Whether the owner's matrices are within the cache's limit."""
        return len(index.items) * dim * _FLOAT_BYTES * len(VIEWS) <= self._limit

    def scores(self, owner: Owner, index: OwnerIndex, vector: Vectors) -> dict[View, Scores]:
        """Cosine of each item, by view; NaN for items that are not indexed yet.

        Args:
            vector: (dim,), of length 1.

        Raises:
            IndexUnavailable: rows are missing, and Chroma does not answer.
        """
        with self._lock:
            cached = self._cache.get(owner)
        if cached is None or cached.index is not index or cached.retry_at <= time.monotonic():
            cached = self._load(owner, index, cached, len(vector))
        self._store(owner, cached)
        return {view: rows @ vector for view, rows in cached.rows.items()}

    def refresh(self, owner: Owner, index: OwnerIndex) -> None:
        """Update the matrices of an owner, if they are cached.

        Raises:
            IndexUnavailable: Chroma does not answer.
        """
        with self._lock:
            cached = self._cache.get(owner)
        if cached is not None and cached.index is not index:
            dim = cached.rows["turn"].shape[1]
            if self.fits(index, dim):
                self._store(owner, self._load(owner, index, cached, dim))

    def _load(self, owner: Owner, index: OwnerIndex, old: _Matrices | None, dim: int) -> _Matrices:
        shape = (len(index.items), dim)
        rows: dict[View, Vectors] = {
            view: np.full(shape, np.nan, dtype=np.float32) for view in VIEWS
        }
        if old is not None:
            _copy_unchanged(old, index, rows)
        complete = True
        for view, matrix in rows.items():
            wanted = np.flatnonzero(np.isnan(matrix[:, 0]))
            ids = [index.items[position].id for position in wanted]
            for item_id, row in self._index.vectors(owner, view, ids):
                matrix[index.position[item_id]] = row
            complete = complete and not np.isnan(matrix[wanted, 0]).any()
        return _Matrices(index, rows, np.inf if complete else time.monotonic() + _RETRY_SECONDS)

    def _store(self, owner: Owner, cached: _Matrices) -> None:
        with self._lock:
            if cached.bytes <= self._limit:
                self._cache[owner] = cached


def _copy_unchanged(old: _Matrices, index: OwnerIndex, rows: dict[View, Vectors]) -> None:
    """Copy the rows of items whose text and window are unchanged."""
    before = old.index.position
    pairs = [
        (position, before[item.id])
        for position, item in enumerate(index.items)
        if item.id in before and old.index.items[before[item.id]].window == item.window
    ]
    if not pairs:
        return
    to, of = np.array(pairs).T
    for view, matrix in rows.items():
        if old.rows[view].shape[1] == matrix.shape[1]:
            matrix[to] = old.rows[view][of]
