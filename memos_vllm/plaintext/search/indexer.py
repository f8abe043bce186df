"""MemOperator's writing side: index the changes in the vault's outbox.

Embeds changed items, brings Chroma and the payload store in line with the vault, and only then removes
the outbox rows.  After a kill the work is repeated; it is idempotent.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np

from memos_vllm.cube.ids import CubeId
from memos_vllm.errors import Unavailable
from memos_vllm.plaintext.embed.embedder import Embedder
from memos_vllm.plaintext.search.vector_store import LAYOUT, Rows, VectorIndex
from memos_vllm.vault.outbox import Outbox, Work
from memos_vllm.vault.payloads import PayloadStore

log = logging.getLogger(__name__)
_POLL_SECONDS = 1.0
_WORST_POLL_SECONDS = 30.0


class Indexer:
    def __init__(
        self,
        outbox: Outbox,
        payloads: PayloadStore,
        embedder: Embedder,
        index: VectorIndex,
        forget_kv: Callable[[Work], None] = lambda work: None,
    ) -> None:
        """
        Args:
            forget_kv: wipes the KV of a cube that changed or is deleted.
        """
        self._outbox = outbox
        self._payloads = payloads
        self._embedder = embedder
        self._index = index
        self._forget_kv = forget_kv
        self._lock = threading.Lock()
        """Guards outbox processing."""
        self._waiting_lock = threading.Lock()
        self._waiting: set[CubeId] = set()
        """Cubes whose changes must be indexed before their requests return. The next thread with the
        lock indexes all of them, so that concurrent requests are embedded in one batch."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def signature(self) -> str:
        return f"{self._embedder.signature}|{LAYOUT}"

    def drain(self, cubes: Sequence[CubeId] | None = None) -> int:
        """Process the outbox (these cubes, or all of it); the number of rows done.

        Raises:
            Unavailable: Chroma, the embedder or the vault does not answer; open rows stay.
        """
        if cubes is None:
            with self._lock:
                return self._process(None)
        with self._waiting_lock:
            self._waiting.update(cubes)
        with self._lock:
            with self._waiting_lock:
                if not self._waiting.intersection(cubes):
                    return 0  # the previous holder of the lock has indexed them
                batch, self._waiting = self._waiting, set()
            try:
                return self._process(list(batch))
            except Unavailable:
                with self._waiting_lock:
                    self._waiting |= batch  # each caller tries again and gets its own error
                if batch <= set(cubes):
                    raise
            return self._process(cubes)

    def _process(self, cubes: Sequence[CubeId] | None) -> int:
        """Process pending rows; the caller holds the lock."""
        done = 0
        while batch := self._outbox.pending(cubes):
            # Deletions go first: they need no embedder, and must not wait for a broken one.
            for part in (
                [work for work in batch if not work.upserts],
                [work for work in batch if work.upserts],
            ):
                self._do(part)
                self._outbox.done(part)
                done += sum(len(work.rows) for work in part)
        return done

    def rebuild(self, progress: Callable[[int, int], None] | None = None) -> int:
        """Empty Chroma and index the whole vault again; the number of items."""
        with self._lock:
            self._index.clear()
            total = self._outbox.refill()
            self._outbox.set_index_signature(self.signature)
        while batch := self._outbox.pending():
            with self._lock:
                self._do(batch)
                self._outbox.done(batch)
            if progress:
                progress(total - min(total, self._outbox.size()), total)
        return total

    def start(self) -> None:
        """Start the thread that indexes rows of earlier and of other processes."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="memos-indexer", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
            self._thread = None

    def _run(self) -> None:
        pause = _POLL_SECONDS
        while not self._stop.wait(pause):
            try:
                self._check_signature()
                self.drain()
                pause = _POLL_SECONDS
            except Unavailable as error:
                pause = min(pause * 2, _WORST_POLL_SECONDS)
                log.warning("indexing waits %.0f s: %s", pause, error)

    def _check_signature(self) -> None:
        """Rebuild an index that has another embedder or layout."""
        stored = self._outbox.index_signature()
        if stored is None:
            self._outbox.set_index_signature(self.signature)
        elif stored != self.signature:
            log.warning(
                "the index was built with %s and is rebuilt with %s", stored, self.signature
            )
            self.rebuild()

    def _do(self, batch: Sequence[Work]) -> None:
        """Apply a batch: deletions one by one, all new items in one embedding call."""
        for work in batch:
            self._forget_kv(work)  # first: it needs neither Chroma nor the embedder
            if work.drop:
                self._index.drop_cube(work.owner, work.cube)
                self._payloads.delete_cube(work.owner.tenant, work.cube)
            elif work.deletes:
                self._index.delete(work.owner, work.deletes)
        items = [item for work in batch for item in work.upserts]
        if not items:
            return
        # The window of a first item is the item itself: embed each distinct text once.
        texts = list(dict.fromkeys(text for item in items for text in (item.turn, item.window)))
        rows = dict(zip(texts, self._embedder.embed(texts), strict=True))
        self._index.upsert_all(
            [
                Rows(
                    work.owner,
                    work.cube,
                    [item.id for item in work.upserts],
                    {
                        "turn": np.stack([rows[item.turn] for item in work.upserts]),
                        "window": np.stack([rows[item.window] for item in work.upserts]),
                    },
                )
                for work in batch
                if work.upserts
            ]
        )
