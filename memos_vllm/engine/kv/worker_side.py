"""The connector in a worker: segments into the paged cache, and out of it.

Loads and saves run in threads of their own, so that other requests are computed meanwhile.  Nothing
that goes wrong here may end the engine: a load that fails is reported block by block and the engine
computes those tokens; a save that fails is a miss later.
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

import torch

from memos_vllm.activation.direct_io import Scratch, read_rate
from memos_vllm.activation.store import SegmentName
from memos_vllm.activation.tensors import TensorStore
from memos_vllm.engine.kv.base import Reports
from memos_vllm.engine.kv.blocks import PagedCache
from memos_vllm.engine.kv.loading import Loader, Progress, finishing, loading_threads
from memos_vllm.engine.kv.messages import Load, Piece, Save, StepOrders
from memos_vllm.engine.kv.rope import Rotation

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
        """Args: prefetches: what was used last comes into shared memory at once."""
        super().__init__()
        self._store = store
        self._prefetches = prefetches
        self._cache = cache
        self._rank = rank
        self._used: list[SegmentName] = []
        self._loads = ThreadPoolExecutor(1, "memos-kv-load")
        self._saver = ThreadPoolExecutor(1, "memos-kv-save")
        self._swept = time.monotonic()
        self._step = _Step()
        # On a device, attention may be part of a recorded graph, which asks for nothing.
        self._overlaps = cache.device.type == "cpu"
        # What is loaded beside other requests leaves them the cores. A device copies by itself: one
        # thread reads while another one's layer is on its way.
        at_once, beside = (loading_threads(), 1) if self._overlaps else (2, 2)
        self._at_once = Loader(store, cache, self._named, rotation, at_once)
        self._beside = Loader(store, cache, self._named, rotation, beside)
        self._saving = Scratch(cache.device.type == "cuda")
        self._saver.submit(self._first_look)

    def step_begins(self, orders: StepOrders) -> None:
        """Before anything of a step is computed."""
        self._step = _Step(orders.prefill_tokens, time.perf_counter())

    def begin(self, orders: StepOrders) -> None:
        for save in orders.saves:
            self._saver.submit(self._save, save, self._after_computing())
        for load in orders.loads:
            if not load.at_once:
                self._loads.submit(self._load, self._beside, load)
            elif self._overlaps:
                progress = Progress()
                self._step.loading.append((load, progress))
                self._loads.submit(self._load, self._at_once, load, progress)
            else:
                self._step.prefill_tokens = 0  # what it takes is not only computing
                self._load(self._at_once, load)

    def wait_for_layer(self, name: str) -> None:
        """Before a layer computes attention on what is being loaded."""
        for _, progress in self._step.loading:
            position = self._cache.position(name)
            if position is None:  # it attends to what another layer keeps
                progress.wait_until_over()
            else:
                progress.wait(position)

    def step_ends(self) -> None:
        """What the step computed on has been loaded, or is reported as not loaded."""
        step = self._step
        for load, progress in step.loading:
            progress.wait_until_over()
            if len(progress.waited) < self._cache.layers:
                log.warning(
                    "attention did not wait for KV: it is loaded before each step from now on"
                )
                self._overlaps = False
                self._report_bad(load, load.start)
        if step.prefill_tokens and not step.loading and self._cache.device.type == "cpu":
            self._count("prefill_tokens", step.prefill_tokens)
            self._count("prefill_seconds", time.perf_counter() - step.started)
        self._step = _Step()

    def answered(self) -> None:
        """A request has its reply: what it used may move up. The first token waits for nothing."""
        self._saver.submit(self._promote)

    def close(self) -> None:
        self._loads.shutdown(wait=True, cancel_futures=True)
        self._at_once.close()
        self._beside.close()
        self._saver.shutdown(wait=True)

    def _load(self, loader: Loader, load: Load, progress: Progress | None = None) -> None:
        started, counts, reached = time.perf_counter(), Counter[str](), load.start
        with finishing(progress):
            try:
                reached = loader.load(load, counts, progress)
                loader.wait_for_device()
            except Exception:
                log.exception("KV that could not be loaded is computed")
                reached = load.start
            counts["load_seconds"] += time.perf_counter() - started  # type: ignore[assignment]
            if reached < load.end:
                counts["load_failures"] += 1
                self._report_bad(load, reached)
            with self._lock:
                self._counts.update(counts)
                self._used += [self._named(piece) for piece in load.pieces if piece.end <= reached]
                if not load.at_once:
                    self._loaded.add(load.request_id)

    def _report_bad(self, load: Load, reached: int) -> None:
        size = self._cache.block_size
        with self._lock:
            self._bad_blocks.update(load.block_ids[reached // size : (load.end - 1) // size + 1])

    def _first_look(self) -> None:
        for tier in self._store.tiers():
            with contextlib.suppress(OSError):
                size, seconds = read_rate(tier.folder)
                tokens = size / self._cache.shape(1).bytes
                self._count(f"read_tokens_{tier.name}", tokens)
                self._count(f"read_seconds_{tier.name}", seconds)
        self._sweep()
        if self._prefetches:
            self._warm(self._store.warmest(self._rank))

    def _warm(self, names: Iterator[str]) -> None:
        """What was used last comes back into shared memory, one by one: saves go between."""
        try:
            if (name := next(names, None)) is not None and self._store.warm(name):
                self._saver.submit(self._warm, names)
        except (OSError, RuntimeError) as error:  # no memory; or the server ends
            log.info("shared memory stays as it is: %s", error)

    def _sweep(self) -> None:
        self._swept = time.monotonic()
        self._store.sweep()

    def _promote(self) -> None:
        with self._lock:
            used, self._used = self._used, []
        for name in dict.fromkeys(used):
            self._store.promote(name)

    def _save(self, save: Save, computed: Any) -> None:
        try:
            if computed is not None:
                computed.synchronize()
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
            if time.monotonic() - self._swept > _SWEEP_SECONDS:
                self._sweep()
        except OSError as error:
            log.warning("KV is not kept: %s", error)
            self._count("save_failures", 1)
        except Exception:
            log.exception("KV is not kept")
            self._count("save_failures", 1)
        with self._lock:
            self._saved.add(save.request_id)

    def _named(self, piece: Piece) -> SegmentName:
        return dataclasses.replace(piece.name, rank=self._rank)

    def _count(self, name: str, amount: float) -> None:
        with self._lock:
            self._counts[name] += amount  # type: ignore[assignment]

    def _after_computing(self) -> Any:
        """An event behind what the device still has to compute; None on a CPU."""
        if self._cache.device.type != "cuda":
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event


@dataclasses.dataclass(slots=True)
class _Step:
    """What is known of the step that is being computed."""

    prefill_tokens: int = 0
    started: float = 0.0
    loading: list[tuple[Load, Progress]] = dataclasses.field(default_factory=list)


class RefusingWorker(WorkerSide):
    """Stands in where the KV of this worker cannot be carried: every load is computed instead."""

    def __init__(self, block_size: int) -> None:
        Reports.__init__(self)
        self._block_size = block_size

    def answered(self) -> None:
        """Nothing was used."""

    def step_begins(self, orders: StepOrders) -> None:
        """Nothing is measured."""

    def wait_for_layer(self, name: str) -> None:
        """Nothing is loaded."""

    def step_ends(self) -> None:
        """Nothing was loaded."""

    def begin(self, orders: StepOrders) -> None:
        for load in orders.loads:
            first, last = load.start // self._block_size, (load.end - 1) // self._block_size
            self._bad_blocks.update(load.block_ids[first : last + 1])
            if not load.at_once:
                self._loaded.add(load.request_id)
        self._saved.update(save.request_id for save in orders.saves)

    def close(self) -> None:
        """Nothing runs here."""
