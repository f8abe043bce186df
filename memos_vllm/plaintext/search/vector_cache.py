"""Cache of owners' vectors as matrices, for exact search in memory.

Chroma's filtered query reads an owner's ids from its database each time: at 10,000 items that is most
of a search (benchmarks/locomo_retrieval measures ours).  With matrices, a search is one product, every
item has a score, and nothing is approximate.  Chroma remains the store: rows are read at an owner's
first search, and after a change only those of the changed cubes.  Rows that are final also go into
files (`PartFiles`), since Chroma takes seconds to return 10,000 vectors after a start.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Set

import numpy as np
from cachetools import LRUCache

from memos_vllm.plaintext.embed.encoder import Vectors
from memos_vllm.plaintext.embed.model import signature_of
from memos_vllm.plaintext.search.bm25 import Scores
from memos_vllm.plaintext.search.owner_index import Only, OwnerIndex, Part
from memos_vllm.plaintext.search.part_files import PartFiles
from memos_vllm.plaintext.search.vector_store import VIEWS, Generation, VectorIndex, View
from memos_vllm.vault.items import Owner, PartKey

_RETRY_SECONDS = 1.0
_FLOAT_BYTES = 4

_BEFORE = 0.6
"""Weight of the item before in a window."""
Unsettled = Callable[[Owner], Set[str]]
"""Cubes of an owner whose changes are not in Chroma yet."""


@dataclasses.dataclass(slots=True)
class _Matrices:
    generation: Generation
    index: OwnerIndex
    rows: dict[View, Vectors]
    """(num_items, dim) for each view, in the order of the index's items; NaN: not in Chroma yet."""
    settled: frozenset[PartKey]
    """Parts whose rows are final."""
    retry_at: float
    """Monotonic time to read the other parts again; infinite: none."""
    before: Scores
    """(num_items,) cosine of each item with the one before it in its cube; NaN: none."""

    @property
    def bytes(self) -> int:
        return sum(rows.nbytes for rows in self.rows.values())


class VectorCache:
    def __init__(
        self,
        index: VectorIndex,
        limit_bytes: int,
        unsettled: Unsettled = lambda owner: frozenset(),
        files: PartFiles | None = None,
    ) -> None:
        self._index = index
        self._limit = limit_bytes
        self._unsettled = unsettled
        self._files = files
        self._lock = threading.Lock()
        self._cache: LRUCache[tuple[Owner, Only], _Matrices] = LRUCache(
            limit_bytes, getsizeof=lambda cached: cached.bytes
        )

    def forget(self, is_gone: Callable[[str, str], bool]) -> None:
        with self._lock:
            for key in [each for each in self._cache if is_gone(each[0].tenant, each[0].person)]:
                self._cache.pop(key, None)

    def fits(self, index: OwnerIndex, dim: int) -> bool:
        """Whether the owner's matrices are within the cache's limit."""
        return len(index.items) * dim * _FLOAT_BYTES * len(VIEWS) <= self._limit

    def scores(self, owner: Owner, index: OwnerIndex, vector: Vectors) -> dict[str, Scores]:
        """Cosines of each item (`turn`), and of it with the item before it in its cube (`window`).

        NaN for items that are not indexed yet.  The vector of a window is the sum of both vectors, the
        earlier one at `_BEFORE`: on LoCoMo it finds what the vector of both texts together finds
        (turn recall@10 83.0 and 83.2), without a second vector of every item.

        Args:
            vector: (dim,), of length 1.

        Raises:
            IndexUnavailable: rows are missing, and Chroma does not answer; or the vector is of another
                embedder than the index's, which has changed in between.
        """
        generation = self._index.generation
        generation.require(signature_of(vector))
        with self._lock:
            cached = self._cache.get((owner, index.only))
        if (
            cached is None
            or cached.index is not index
            or cached.generation != generation
            or cached.retry_at <= time.monotonic()
        ):
            cached = self._load(owner, index, cached, len(vector), generation)
        self._store(owner, cached)
        plain = np.asarray(vector)
        # Not a product of BLAS: its threads wait for one another while the engine has the cores.
        cosines: Scores = np.einsum("ij,j->i", cached.rows["turn"], plain)
        return {"turn": cosines, "window": _window_cosines(cosines, cached.before)}

    def refresh(self, owner: Owner, index: OwnerIndex) -> None:
        """Update the matrices of an owner, if they are cached.

        Raises:
            IndexUnavailable: Chroma does not answer.
        """
        with self._lock:
            cached = self._cache.get((owner, index.only))
        if cached is not None and cached.index is not index:
            dim = cached.rows["turn"].shape[1]
            if self.fits(index, dim):
                loaded = self._load(owner, index, cached, dim, self._index.generation)
                self._store(owner, loaded)

    def _load(
        self,
        owner: Owner,
        index: OwnerIndex,
        old: _Matrices | None,
        dim: int,
        generation: Generation,
    ) -> _Matrices:
        shape = (len(index.items), dim)
        rows: dict[View, Vectors] = {view: np.empty(shape, dtype=np.float32) for view in VIEWS}
        settled: set[PartKey] = set()
        if old is not None and (old.generation != generation or old.rows["turn"].shape[1] != dim):
            old = None
        if old is not None:
            settled = _copy_settled(old, index, rows)
        if self._files is not None:
            settled |= self._copy_files(owner, index, rows, settled)
        fresh = [(part, span) for part, span in _spans(index) if part.key not in settled]
        if fresh:
            for _, span in fresh:
                for matrix in rows.values():
                    matrix[span] = np.nan
            if old is not None:
                _copy_items(old, fresh, rows)
            # Asked before the rows are read: a change that comes between makes another version.
            unsettled = self._unsettled(owner)
            self._read(owner, index, rows)
            final = [
                (part, span)
                for part, span in fresh
                if part.key.cube_id not in unsettled
                and not any(np.isnan(matrix[span, 0]).any() for matrix in rows.values())
            ]
            settled |= {part.key for part, _ in final}
            if self._files is not None:
                self._files.save_soon(
                    owner,
                    [
                        (part.key, generation.kind, {v: m[span] for v, m in rows.items()})
                        for part, span in final
                    ],
                )
        complete = len(settled) == len(index.parts)
        retry_at = np.inf if complete else time.monotonic() + _RETRY_SECONDS
        before = _cosines_with_before(rows["turn"], index)
        return _Matrices(generation, index, rows, frozenset(settled), retry_at, before)

    def _copy_files(
        self, owner: Owner, index: OwnerIndex, rows: dict[View, Vectors], done: Set[PartKey]
    ) -> set[PartKey]:
        """Copy the rows that files have; the parts that are complete."""
        assert self._files is not None
        found = set()
        for part, span in _spans(index):
            if part.key in done:
                continue
            arrays = self._files.load(owner, part.key, self._index.generation.kind)
            if arrays is None or any(
                view not in arrays or arrays[view].shape != rows[view][span].shape for view in VIEWS
            ):
                continue
            for view, matrix in rows.items():
                matrix[span] = arrays[view]
            found.add(part.key)
        return found

    def _read(self, owner: Owner, index: OwnerIndex, rows: dict[View, Vectors]) -> None:
        """Read missing rows from Chroma."""
        for view, matrix in rows.items():
            missing = np.flatnonzero(np.isnan(matrix[:, 0]))
            ids = [index.items[position].id for position in missing]
            for item_id, row in self._index.vectors(owner, view, ids):
                matrix[index.position[item_id]] = row

    def _store(self, owner: Owner, cached: _Matrices) -> None:
        with self._lock:
            if cached.bytes <= self._limit:
                self._cache[owner, cached.index.only] = cached


def _cosines_with_before(rows: Vectors, index: OwnerIndex) -> Scores:
    cosines = np.full(len(rows), np.nan, dtype=np.float32)
    if len(rows) > 1:
        cosines[1:] = np.einsum("ij,ij->i", rows[1:], rows[:-1])
        cosines[1:][index.cues.cube[1:] != index.cues.cube[:-1]] = np.nan
    return cosines


def _window_cosines(cosines: Scores, before: Scores) -> Scores:
    """Cosines of the sum of each vector and `_BEFORE` times the one before it."""
    earlier = np.r_[np.float32(np.nan), cosines[:-1]][: len(cosines)]
    length = np.sqrt(1 + _BEFORE**2 + 2 * _BEFORE * before)
    windows = (cosines + _BEFORE * earlier) / length
    return np.where(np.isnan(windows), cosines, windows).astype(np.float32)


def _spans(index: OwnerIndex) -> Iterator[tuple[Part, slice]]:
    """Each part with its positions in the index."""
    start = 0
    for part in index.parts.values():
        yield part, slice(start, start + len(part.items))
        start += len(part.items)


def _copy_settled(old: _Matrices, index: OwnerIndex, rows: dict[View, Vectors]) -> set[PartKey]:
    """Copy the final rows of unchanged parts; these parts."""
    before = {part.key: span for part, span in _spans(old.index) if part.key in old.settled}
    unchanged = set()
    for part, span in _spans(index):
        if part.key in before:
            for view, matrix in rows.items():
                matrix[span] = old.rows[view][before[part.key]]
            unchanged.add(part.key)
    return unchanged


def _copy_items(old: _Matrices, parts: list[tuple[Part, slice]], rows: dict[View, Vectors]) -> None:
    """Copy the final rows of unchanged items in changed parts."""
    before = {
        part.key.cube_id: (part, span)
        for part, span in _spans(old.index)
        if part.key in old.settled
    }
    for part, span in parts:
        old_part, old_span = before.get(part.key.cube_id, (None, slice(0)))
        if old_part is None:
            continue
        texts = {item.id: (n, item.text) for n, item in enumerate(old_part.items)}
        for position, item in enumerate(part.items):
            n, text = texts.get(item.id, (0, None))
            if text == item.text:
                for view, matrix in rows.items():
                    matrix[span.start + position] = old.rows[view][old_span.start + n]
