"""Owners' vectors in memory, for exact search.

Chroma's filtered query reads an owner's ids from its database each time: at 10,000 items it takes
most of a search (benchmarks/locomo_retrieval measures ours).  Kept as matrices, the same vectors take
one product, every item has a score, and nothing is approximate.  Chroma stays where they live: rows
are read from it when an owner is first searched, and after a change only those that changed.
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
class _Held:
    index: OwnerIndex
    rows: dict[View, Vectors]
    """(num_items, dim) a view, in the order of the index's items; NaN where Chroma has none yet."""
    retry_at: float
    """When to ask for those again, by the monotonic clock; infinite: all are here."""

    @property
    def bytes(self) -> int:
        return sum(rows.nbytes for rows in self.rows.values())


class VectorCache:
    def __init__(self, index: VectorIndex, limit_bytes: int) -> None:
        self._index = index
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._held: LRUCache[Owner, _Held] = LRUCache(
            limit_bytes, getsizeof=lambda held: held.bytes
        )

    def fits(self, index: OwnerIndex, dim: int) -> bool:
        return len(index.items) * dim * _FLOAT_BYTES * len(VIEWS) <= self._limit

    def scores(self, owner: Owner, index: OwnerIndex, vector: Vectors) -> dict[View, Scores]:
        """Cosine of each item, by view; NaN for items that are not indexed yet.

        Args:
            vector: (dim,), of length 1.
        Raises:
            IndexUnavailable: rows are missing here, and Chroma does not answer.
        """
        with self._lock:
            held = self._held.get(owner)
        if held is None or held.index is not index or held.retry_at <= time.monotonic():
            held = self._load(owner, index, held, len(vector))
        self._keep(owner, held)
        return {view: rows @ vector for view, rows in held.rows.items()}

    def refresh(self, owner: Owner, index: OwnerIndex) -> None:
        """Bring the matrices of an owner up to date who has some here. Raises IndexUnavailable."""
        with self._lock:
            held = self._held.get(owner)
        if held is not None and held.index is not index:
            dim = held.rows["turn"].shape[1]
            if self.fits(index, dim):
                self._keep(owner, self._load(owner, index, held, dim))

    def _load(self, owner: Owner, index: OwnerIndex, old: _Held | None, dim: int) -> _Held:
        shape = (len(index.items), dim)
        rows: dict[View, Vectors] = {
            view: np.full(shape, np.nan, dtype=np.float32) for view in VIEWS
        }
        if old is not None:
            _take_over(old, index, rows)
        complete = True
        for view, matrix in rows.items():
            wanted = np.flatnonzero(np.isnan(matrix[:, 0]))
            ids = [index.items[position].id for position in wanted]
            for item_id, row in self._index.vectors(owner, view, ids):
                matrix[index.position[item_id]] = row
            complete = complete and not np.isnan(matrix[wanted, 0]).any()
        return _Held(index, rows, np.inf if complete else time.monotonic() + _RETRY_SECONDS)

    def _keep(self, owner: Owner, held: _Held) -> None:
        with self._lock:
            if held.bytes <= self._limit:
                self._held[owner] = held


def _take_over(old: _Held, index: OwnerIndex, rows: dict[View, Vectors]) -> None:
    """Copy the rows of items that have not changed, nor the item before them."""
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
