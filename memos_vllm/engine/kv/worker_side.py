"""The connector in a worker: load segments into the paged cache, save them out of it.

Loads and saves run in their own threads, so that the engine computes other requests meanwhile.  No
error here may end the engine: a load that fails is reported block by block and the engine computes
those tokens; a save that fails is a miss later.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from memos_vllm.activation.direct_io import Scratch, read_rate
from memos_vllm.activation.names import SegmentName
from memos_vllm.activation.rotation import Rotation
from memos_vllm.activation.tensors import TensorStore
from memos_vllm.engine.kv.base import Reports
from memos_vllm.engine.kv.blocks import PagedCache
from memos_vllm.engine.kv.device import CopyStream, launched
from memos_vllm.engine.kv.loading import Loader
from memos_vllm.engine.kv.messages import Load, Piece, Save, StepOrders
from memos_vllm.engine.kv.progress import Progress, finishing
from memos_vllm.engine.kv.states import When
from memos_vllm.engine.kv.threads import beside_engine, loading_threads

log = logging.getLogger(__name__)
_SWEEP_SECONDS = 600.0


class WorkerSide(Reports):
    def __init__(
        self,
        store: TensorStore,
        cache: PagedCache,
        rank: str,
        rotation: Rotation | None,
        prefetches: bool = False,
    ) -> None:
        """
        Args:
            store: segments that are loaded and saved.
            cache: this worker's paged cache.
            rank: this worker's, as in `SegmentName`.
            rotation: of the keys; None: they cannot be moved.
            prefetches: copy the segments used last into shared memory at the start.
        """
        super().__init__()
        self._store = store
        self._prefetches = prefetches
        self._cache = cache
        self._rank = rank
        self._used: list[SegmentName] = []
        self._loads = ThreadPoolExecutor(1, "memos-kv-load", beside_engine)
        self._saver = ThreadPoolExecutor(1, "memos-kv-save", beside_engine)
        self._swept = time.monotonic()
        self._step = _Step()
        # CUDA graphs do not call wait_for_layer_load.
        self._overlaps = cache.device.type == "cpu"
        # A load between steps leaves the cores to the steps. A device copies without the processor:
        # one thread reads while another one's layer is copied.
        in_step, between_steps = (loading_threads(), 1) if self._overlaps else (2, 2)
        self._loaders = {
            When.IN_STEP: Loader(store, cache, self._named, rotation, in_step),
            When.BETWEEN_STEPS: Loader(store, cache, self._named, rotation, between_steps),
        }
        self._saving = Scratch(cache.device.type == "cuda")
        self._save_stream = CopyStream(cache.device)
        self._saver.submit(self._at_start)

    def step_begins(self, orders: StepOrders) -> None:
        """Called before the forward pass."""
        self._step = _Step(orders.prefill_tokens, time.perf_counter())

    def begin(self, orders: StepOrders) -> None:
        if not orders.saves and not orders.loads:
            return
        before = launched(self._cache.device)
        for save in orders.saves:
            self._saver.submit(self._save, save, before)
        for load in orders.loads:
            if load.when is When.BETWEEN_STEPS:
                self._loads.submit(self._load, load, before)
            elif self._overlaps:
                progress = Progress()
                self._step.running.append(_RunningLoad(load, progress))
                self._loads.submit(self._load, load, before, progress)
            else:
                self._step.prefill_tokens = 0  # the step's time is not only prefill
                self._load(load, before)

    def wait_for_layer(self, name: str) -> None:
        """Wait until every load of the step has written this layer's KV."""
        for running in self._step.running:
            position = self._cache.position(name)
            if position is None:  # it attends to another layer's KV
                running.progress.wait_until_over()
            else:
                running.progress.wait(position)

    def step_ends(self) -> None:
        """Wait for the step's loads, and report blocks that attention may have read too early."""
        step = self._step
        for running in step.running:
            running.progress.wait_until_over()
            if len(running.progress.waited) < self._cache.layers:
                log.warning(
                    "attention did not wait for KV: it is loaded before each step from now on"
                )
                self._overlaps = False
                self._report_bad(running.load, running.load.start)
        if step.prefill_tokens and not step.running and self._cache.device.type == "cpu":
            self._count("prefill_tokens", step.prefill_tokens)
            self._count("prefill_seconds", time.perf_counter() - step.started)
        self._step = _Step()

    def answered(self) -> None:
        """Promote the segments of answered requests; after the reply, so no first token waits."""
        self._saver.submit(self._promote)

    def close(self) -> None:
        self._loads.shutdown(wait=True, cancel_futures=True)
        for loader in self._loaders.values():
            loader.close()
        self._saver.shutdown(wait=True)

    def _load(self, load: Load, before: Any, progress: Progress | None = None) -> None:
        loader = self._loaders[load.when]
        started, counts, reached = time.perf_counter(), Counter[str](), load.start
        with finishing(progress):
            try:
                reached = loader.load(load, counts, progress, after=before)
                loader.wait_for_device()
            # The top of a thread: a bug must end neither the engine nor leave its request waiting.
            except Exception:
                log.exception("KV could not be loaded, it is computed")
                reached = load.start
            counts["load_seconds"] += time.perf_counter() - started  # type: ignore[assignment]
            if reached < load.end:
                counts["load_failures"] += 1
                self._report_bad(load, reached)
            with self._lock:
                self._counts.update(counts)
                self._used += [self._named(piece) for piece in load.pieces if piece.end <= reached]
                if load.when is When.BETWEEN_STEPS:
                    self._loaded.add(load.request_id)

    def _report_bad(self, load: Load, reached: int) -> None:
        size = self._cache.block_size
        with self._lock:
            self._bad_blocks.update(load.block_ids[reached // size : (load.end - 1) // size + 1])

    def _at_start(self) -> None:
        """Measure each tier, sweep, and prefetch."""
        for tier in self._store.segments.tiers():
            with contextlib.suppress(OSError):
                size, seconds = read_rate(tier.folder)
                tokens = size / self._cache.shape(1).bytes
                self._count(f"read_tokens_{tier.name}", tokens)
                self._count(f"read_seconds_{tier.name}", seconds)
        self._sweep()
        if self._prefetches:
            self._warm(self._store.warmest(self._rank))

    def _warm(self, names: Iterator[str]) -> None:
        """Copy one segment into shared memory, then queue the next: saves go between."""
        try:
            if (name := next(names, None)) is not None and self._store.warm(name):
                self._saver.submit(self._warm, names)
        except (OSError, RuntimeError) as error:  # the memory is full, or the server ends
            log.info("prefetching into shared memory ends: %s", error)

    def _sweep(self) -> None:
        self._swept = time.monotonic()
        self._store.segments.sweep()

    def _promote(self) -> None:
        with self._lock:
            used, self._used = self._used, []
        for name in dict.fromkeys(used):
            self._store.promote(name)

    def _save(self, save: Save, before: Any) -> None:
        try:
            self._save_stream.after(before)
            with self._save_stream.used():
                self._save_pieces(save)
            if time.monotonic() - self._swept > _SWEEP_SECONDS:
                self._sweep()
        except OSError as error:
            log.warning("KV is not saved: %s", error)
            self._count("save_failures", 1)
        # The top of a thread: a bug must not leave the request's blocks allocated for ever.
        except Exception:
            log.exception("KV is not saved")
            self._count("save_failures", 1)
        with self._lock:
            self._saved.add(save.request_id)

    def _save_pieces(self, save: Save) -> None:
        for piece in save.pieces:
            shape = self._cache.shape(piece.end - piece.start)
            layers = self._cache.read(save.block_ids, piece.start, piece.end, self._saving)
            metadata = {
                "digest": piece.digest,
                "start": str(piece.start),
                "model": piece.name.model,
                "scope": piece.scope,
            }
            name = self._named(piece)
            if self._store.add(name, shape, layers, piece.cubes, metadata, piece.generation):
                self._count("saved_tokens", piece.end - piece.start)

    def _named(self, piece: Piece) -> SegmentName:
        return dataclasses.replace(piece.name, rank=self._rank)

    def _count(self, name: str, amount: float) -> None:
        with self._lock:
            self._counts[name] += amount  # type: ignore[assignment]


@dataclasses.dataclass(slots=True)
class _RunningLoad:
    load: Load
    progress: Progress


@dataclasses.dataclass(slots=True)
class _Step:
    """The step that the engine computes."""

    prefill_tokens: int = 0
    started: float = 0.0
    running: list[_RunningLoad] = dataclasses.field(default_factory=list)
