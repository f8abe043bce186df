"""Change of the embedder: vectors of every item by the new one, while those of the old one serve.

The new vectors go into collections of their own, owner by owner, in batches.  A change of memory that
comes meanwhile removes its items there (`forget`), so that what is missing is what is left to do, also
after a restart.  When nothing is missing, `Indexer` lets the new vectors serve and removes the old ones.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from memos_vllm.config.tree import EmbedderConfig
from memos_vllm.cube.ids import CubeId
from memos_vllm.metrics import INDEX_CHANGE_ITEMS
from memos_vllm.plaintext.embed.embedder import Embedder
from memos_vllm.plaintext.embed.model import Vectors
from memos_vllm.plaintext.search.vector_store import FIRST_PREFIX, Rows, VectorIndex, View
from memos_vllm.vault.index_state import Building, IndexState
from memos_vllm.vault.items import IndexedItem, Owner
from memos_vllm.vault.outbox import Work

_BATCH_ITEMS = 32
_RECORD_SECONDS = 2.0
_PASSES = 3  # over owners that change meanwhile, before the last one, which holds up changes


EMBEDDER_IDENTITY = {
    "model",
    "runtime",
    "onnx_file",
    "dtype",
    "query_prefix",
    "passage_prefix",
}
"""Settings that another embedder needs to make the same vectors."""


def old_embedder(
    configured: EmbedderConfig, signature: str, settings: Mapping[str, Any] | None
) -> EmbedderConfig:
    """Configuration of an embedder that the index was built with.

    Args:
        settings: those of `EMBEDDER_IDENTITY`; None: an older version did not record them, and the
            signature names model and dtype.
    """
    if settings is None:
        model, *others = signature.split("|")
        settings = {"model": model, "dtype": "bfloat16" if "bfloat16" in others else "float32"}
        settings |= {"runtime": "auto", "onnx_file": None}
        settings |= {"query_prefix": "", "passage_prefix": ""}  # older versions had none
    return configured.model_copy(update=dict(settings))


def prefix_of(signature: str) -> str:
    """Prefix of the collections of a later embedder."""
    return f"{FIRST_PREFIX}-{hashlib.sha256(signature.encode()).hexdigest()[:8]}"


def vectors_of(
    items: Sequence[IndexedItem], embedder: Embedder
) -> Callable[[Sequence[IndexedItem]], dict[View, Vectors]]:
    """Embed items: a function that returns the vectors of some of them, by view.

    Raises:
        EmbedderUnavailable
    """
    texts = list(dict.fromkeys(item.text for item in items))
    rows = dict(zip(texts, embedder.embed(texts), strict=True))
    return lambda some: {"turn": np.stack([rows[item.text] for item in some])}


class EmbedderChange:
    """Builds the vectors of one embedder; one thread calls `step`."""

    def __init__(
        self,
        signature: str,
        embedder: Embedder,
        index: VectorIndex,
        state: IndexState,
        lock: threading.Lock,
    ) -> None:
        """
        Args:
            signature: of embedder and layout.
            index: the collections to build.
            lock: guards outbox processing.
        """
        self.signature = signature
        self.embedder = embedder
        self.index = index
        self._state = state
        self._lock = lock
        self._done = 0
        self._total = state.count()
        self._recorded = float("-inf")
        self._steps: Iterator[None] | None = None
        self._seen: dict[Owner, int] = {}
        """Revision at which an owner's vectors were completed."""

    def step(self) -> bool:
        """Do a batch of the work; whether none is left. If so, the caller holds the lock.

        Raises:
            Unavailable: Chroma, the embedder or the vault does not answer; a later step goes on.
        """
        if self._steps is None:
            self._steps = self._work()
        try:
            next(self._steps)
        except StopIteration:
            return True
        except BaseException:
            self._steps = None
            raise
        self._record()
        return False

    def forget(self, work: Work) -> None:
        """Remove the vectors of changed items; the caller holds the lock."""
        if work.drop:
            self.index.drop_cube(work.owner, work.cube)
        else:
            self.index.delete(work.owner, [*work.deletes, *(item.id for item in work.upserts)])

    def _work(self) -> Iterator[None]:
        self._seen.clear()
        self._done = 0
        self._record(force=True)
        for _ in range(_PASSES):
            for owner, revision in self._changed():
                yield from self._build(owner)
                self._seen[owner] = revision
        self._lock.acquire()  # released by the caller of `step`
        try:
            for owner, revision in self._changed():
                for _ in self._build(owner, locked=True):
                    pass
                self._seen[owner] = revision
        except BaseException:
            self._lock.release()
            raise

    def _changed(self) -> list[tuple[Owner, int]]:
        owners = self._state.owners().items()
        return [
            (owner, revision) for owner, revision in owners if self._seen.get(owner) != revision
        ]

    def _build(self, owner: Owner, locked: bool = False) -> Iterator[None]:
        """Embed the items of an owner that have no vectors, and remove vectors without an item."""
        present = self.index.ids_of(owner, "turn")
        wanted: set[str] = set()
        for cube, ids in self._state.cubes(owner):
            wanted |= ids
            missing = sorted(ids - present)
            self._done += len(ids) - len(missing) if owner not in self._seen else 0
            for start in range(0, len(missing), _BATCH_ITEMS):
                self._add(owner, cube, set(missing[start : start + _BATCH_ITEMS]), locked)
                yield
        self.index.delete(owner, sorted(present - wanted))

    def _add(self, owner: Owner, cube: CubeId, ids: set[str], locked: bool) -> None:
        """Embed items, and store the vectors of those that did not change meanwhile."""
        items = self._state.items(cube, ids)
        if not items:
            return
        vectors = vectors_of(items, self.embedder)(items)
        rows = Rows(owner, cube, [item.id for item in items], vectors)
        if locked:
            self.index.upsert_all([rows])
        else:
            with self._lock:
                if self._state.items(cube, ids) == items:
                    self.index.upsert_all([rows])
        self._done = min(self._done + len(items), self._total)

    def _record(self, force: bool = False) -> None:
        """Record the progress for other processes (`memos doctor`) and the metric."""
        if not force and time.monotonic() - self._recorded < _RECORD_SECONDS:
            return
        self._recorded = time.monotonic()
        INDEX_CHANGE_ITEMS.set(max(0, self._total - self._done))
        self._state.build(Building(self.signature, self._done, self._total))
