"""MemOperator's writing side: index the changes in the vault's outbox.

Embeds changed items, brings Chroma and the payload store in line with the vault, and only then removes
the outbox rows.  After a kill the work is repeated; it is idempotent.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from memos_vllm.cube.ids import CubeId
from memos_vllm.errors import IndexUnavailable, Unavailable
from memos_vllm.metrics import INDEX_CHANGE_ITEMS
from memos_vllm.plaintext.embed.embedder import Embedder, signature_by
from memos_vllm.plaintext.search.embedder_change import (
    EMBEDDER_IDENTITY,
    EmbedderChange,
    old_embedder,
    prefix_of,
    vectors_of,
)
from memos_vllm.plaintext.search.part_files import PartFiles
from memos_vllm.plaintext.search.vector_store import (
    FIRST_PREFIX,
    LAYOUT,
    READABLE_LAYOUTS,
    Generation,
    Rows,
    VectorIndex,
)
from memos_vllm.vault.index_state import IndexState, Serving
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
        state: IndexState,
        forget_kv: Callable[[Work], None] = lambda work: None,
        files: PartFiles | None = None,
    ) -> None:
        """
        Args:
            forget_kv: wipes the KV of a cube that changed or is deleted.
            files: files of derived data, removed with the text that they derive from.
        """
        self._files = files
        self._outbox = outbox
        self._payloads = payloads
        self._embedder = embedder
        self._index = index
        self._state = state
        self._configured = embedder.config
        self._change: EmbedderChange | None = None
        self._swept = False
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
        """Of the configured embedder and the layout."""
        return f"{signature_by(self._configured)}|{LAYOUT}"

    def attach(self) -> None:
        """Search and write the vectors of the configured embedder.

        Raises:
            VaultUnavailable
        """
        serving = self._state.serving()
        ours = serving is None or serving.signature == self.signature
        self._index.generation = self._generation(
            serving.prefix if serving and ours else None, ours
        )

    def serve_stored(self) -> None:
        """Search the vectors that are there, by the embedder that made them, until they are replaced.

        Raises:
            VaultUnavailable
        """
        serving = self._state.serving()
        if serving is None or serving.signature == self.signature:
            return
        signature, _, layout = serving.signature.rpartition("|")
        if layout not in READABLE_LAYOUTS:
            return
        old = old_embedder(self._configured, signature, serving.embedder)
        log.warning(
            "the embedder or the layout has changed: %s serves until every item has a vector of %s",
            serving.signature,
            self.signature,
        )
        self._embedder.use(old)
        self._index.generation = Generation(
            self._embedder.signature, serving.prefix or FIRST_PREFIX
        )

    def _generation(self, prefix: str | None, first: bool = True) -> Generation:
        if prefix is None:
            prefix = FIRST_PREFIX if first else prefix_of(self.signature)
        return Generation(signature_by(self._configured), prefix)

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
        """Empty Chroma and index the whole vault again with the configured embedder.

        Returns:
            The number of items.
        """
        with self._lock:
            self._end_change()
            if self._embedder.config != self._configured:
                self._embedder.use(self._configured)
            self._index.generation = self._generation(FIRST_PREFIX)
            self._index.clear()
            self._index.clear_others()
            if self._files is not None:
                self._files.clear()
            total = self._outbox.refill()
            self._record_serving(self._index.generation)
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
        self._end_change()

    def _run(self) -> None:
        pause = _POLL_SECONDS
        while not self._stop.wait(pause):
            work_left, failed = self._poll()
            if failed:
                pause = min(max(pause, _POLL_SECONDS) * 2, _WORST_POLL_SECONDS)
                log.warning("indexing waits %.0f s: %s", pause, failed)
            else:
                pause = 0.0 if work_left else _POLL_SECONDS

    def _poll(self) -> tuple[bool, Unavailable | None]:
        """Do pending work, and a batch of a change of the embedder.

        Neither waits for the other: without the old embedder, pending rows wait for the new one.

        Returns:
            Whether work is left, and what did not answer.
        """
        work_left, failed = False, None
        try:
            work_left = self._check_signature()
        except Unavailable as error:
            failed = error
        try:
            self.drain()
        except Unavailable as error:
            failed = None if work_left else error
        return work_left, failed

    def _check_signature(self) -> bool:
        """Compare the stored vectors' embedder with the configured one; whether work is left.

        Raises:
            Unavailable: the stored vectors serve on.
        """
        serving = self._state.serving()
        if serving is None:
            self._record_serving(self._index.generation)
        elif serving.signature == self.signature:
            if self._change is not None or self._embedder.config != self._configured:
                self._serve(self._generation(serving.prefix))  # another process has built them
            self._sweep()
        elif not self._index.claim():
            return False
        elif serving.signature.rpartition("|")[2] not in READABLE_LAYOUTS:
            log.warning("the index is of another version and is rebuilt with %s", self.signature)
            self.rebuild()
        else:
            return self._change_embedder()
        return False

    def _change_embedder(self) -> bool:
        """Do a batch of the change to the configured embedder; whether work is left."""
        if self._change is None:
            generation = self._generation(None, first=False)
            index = self._index.beside(generation)
            self._index.clear_others(generation)
            change = EmbedderChange(
                self.signature, Embedder(self._configured), index, self._state, self._lock
            )
            with self._lock:
                self._change = change
        if not self._change.step():
            return True
        generation = self._change.index.generation
        try:  # the lock is held: no change comes between the last vector and this
            self._record_serving(generation)
            self._serve(generation)
        finally:
            self._lock.release()
        log.warning("every item has a vector of %s, which serves from now on", self.signature)
        self._swept = False
        return False

    def _serve(self, generation: Generation) -> None:
        """Let the vectors of the configured embedder serve."""
        if self._change is not None:
            self._embedder.take(self._change.embedder)
            self._change = None
        else:
            self._embedder.use(self._configured)
        self._index.generation = generation
        INDEX_CHANGE_ITEMS.set(0)

    def _end_change(self) -> None:
        change, self._change = self._change, None
        if change is not None:
            change.embedder.close()

    def _record_serving(self, generation: Generation) -> None:
        settings = self._configured.model_dump(include=EMBEDDER_IDENTITY)
        self._state.serve(Serving(self.signature, settings, generation.prefix))

    def _sweep(self) -> None:
        """Remove what earlier processes left: vectors of other embedders, files of gone versions."""
        if self._swept or not self._index.claim():
            return
        self._index.clear_others()
        if self._files is not None:
            self._files.sweep(self._state.owners())
        self._swept = True

    def _forget_files(self, work: Work) -> None:
        """Remove the files of a cube's older versions; search writes those of the current one."""
        if self._files is not None:
            try:
                self._files.forget(work.owner, work.cube, work.version)
            except OSError as error:
                raise IndexUnavailable(f"derived files cannot be removed: {error}") from error

    def _do(self, batch: Sequence[Work]) -> None:
        """Apply a batch: deletions one by one, all new items in one embedding call."""
        for work in batch:
            self._forget_kv(work)  # first: it needs neither Chroma nor the embedder
            self._forget_files(work)
            if self._change is not None:
                self._change.forget(work)
            if work.drop:
                self._index.drop_cube(work.owner, work.cube)
                self._payloads.delete_cube(work.owner.tenant, work.cube)
            elif work.deletes:
                self._index.delete(work.owner, work.deletes)
        if not any(work.upserts for work in batch):
            return
        vectors = vectors_of([item for work in batch for item in work.upserts], self._embedder)
        self._index.upsert_all(
            [
                Rows(
                    work.owner, work.cube, [item.id for item in work.upserts], vectors(work.upserts)
                )
                for work in batch
                if work.upserts
            ]
        )
