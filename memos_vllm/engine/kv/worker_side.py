"""The connector in a worker: segments into the paged cache, and out of it.

Loads and saves run in threads of their own, so that other requests are computed meanwhile.  Nothing
that goes wrong here may end the engine: a load that fails is reported block by block and the engine
computes those tokens; a save that fails is a miss later.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from memos_vllm.activation.files import Scratch
from memos_vllm.activation.keeper import SegmentKeeper
from memos_vllm.activation.store import SegmentName
from memos_vllm.engine.kv.blocks import PagedCache
from memos_vllm.engine.kv.messages import Load, Piece, Save, StepOrders
from memos_vllm.engine.kv.rope import Rotation
from memos_vllm.errors import DamagedPayload

log = logging.getLogger(__name__)
_SWEEP_SECONDS = 600.0


class WorkerSide:
    def __init__(
        self, store: SegmentKeeper, cache: PagedCache, rank: str, rotation: Rotation | None
    ) -> None:
        self._store = store
        self._cache = cache
        self._rank = rank
        self._rotation = rotation
        self._lock = threading.Lock()
        self._loaded: set[str] = set()
        self._saved: set[str] = set()
        self._bad_blocks: set[int] = set()
        self._counts: Counter[str] = Counter()
        self._used: list[SegmentName] = []
        self._loader = ThreadPoolExecutor(1, "memos-kv-load")
        self._saver = ThreadPoolExecutor(1, "memos-kv-save")
        self._swept = time.monotonic()
        pinned = cache.device.type == "cuda"
        # One for each thread that uses one: the engine's own, the loader's, the saver's.
        self._at_once, self._beside, self._saving = (Scratch(pinned) for _ in range(3))
        self._saver.submit(self._sweep)

    def begin(self, orders: StepOrders) -> None:
        for save in orders.saves:
            self._saver.submit(self._save, save, self._after_computing())
        for load in orders.loads:
            if load.at_once:
                self._load(load)
            else:
                self._loader.submit(self._load, load)

    def take_finished(self, finished: set[str]) -> tuple[set[str], set[str]]:
        """Requests whose (saving, loading) is over. Args: finished: those that were answered."""
        if finished:
            self._saver.submit(self._promote)  # not before: the first token waits for nothing
        with self._lock:
            saved, loaded = self._saved, self._loaded
            self._saved, self._loaded = set(), set()
        return saved, loaded

    def take_bad_blocks(self) -> set[int]:
        with self._lock:
            bad, self._bad_blocks = self._bad_blocks, set()
        return bad

    def take_counts(self) -> dict[str, float]:
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return dict(counts)

    def close(self) -> None:
        self._loader.shutdown(wait=True, cancel_futures=True)
        self._saver.shutdown(wait=True)

    def _load(self, load: Load) -> None:
        reached, started = load.start, time.perf_counter()
        try:
            for piece in load.pieces:
                self._store.will_need(self._named(piece))
            for piece in load.pieces:
                reached = self._load_piece(load, piece)
            self._wait_for_device()
        except (DamagedPayload, OSError) as error:
            log.warning("KV that could not be loaded is computed: %s", error)
            self._count("load_failures", 1)
        except Exception:
            log.exception("KV that could not be loaded is computed")
            self._count("load_failures", 1)
        self._count("load_seconds", time.perf_counter() - started)
        size = self._cache.block_size
        with self._lock:
            if reached < load.end:
                self._bad_blocks.update(
                    load.block_ids[reached // size : (load.end - 1) // size + 1]
                )
            if not load.at_once:
                self._loaded.add(load.request_id)

    def _load_piece(self, load: Load, piece: Piece) -> int:
        """Put one segment in its place; returns the token that it reaches."""
        start, end = max(piece.start, load.start), min(piece.end, load.end)
        name, expected = self._named(piece), self._cache.shape(piece.end - piece.start)
        with self._store.open(name) as (reader, tier):
            if reader.shape != expected:
                raise DamagedPayload(f"KV of another shape: {reader.shape}, not {expected}")
            if reader.metadata.get("digest") != piece.digest:
                raise DamagedPayload("KV of other tokens than its name says")
            slots = self._cache.slots(load.block_ids, start, end)
            window = slice(start - piece.start, end - piece.start)
            turn = self._turn(piece.shift)
            scratch = self._at_once if load.at_once else self._beside
            for layer, (k, v) in enumerate(reader.layers(scratch)):
                self._cache.write(layer, slots, turn(k[window]), v[window])
                self._wait_for_device()  # before the memory is used for the next layer
        with self._lock:
            self._used.append(name)
        self._count(f"loaded_tokens_{tier}", end - start)
        return end

    def _sweep(self) -> None:
        self._swept = time.monotonic()
        self._store.sweep()

    def _turn(self, shift: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """Brings keys to a place `shift` tokens later. Raises DamagedPayload: not for this model."""
        if shift == 0:
            return lambda k: k
        if self._rotation is None:
            raise DamagedPayload("the keys of this model cannot be moved")
        return self._rotation.by(shift)

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

    def _wait_for_device(self) -> None:
        if self._cache.device.type == "cuda":
            torch.cuda.current_stream(self._cache.device).synchronize()


class RefusingWorker(WorkerSide):
    """Stands in where the KV of this worker cannot be carried: every load is computed instead."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._lock = threading.Lock()
        self._loaded, self._saved, self._bad_blocks = set(), set(), set()
        self._counts = Counter()

    def begin(self, orders: StepOrders) -> None:
        for load in orders.loads:
            first, last = load.start // self._block_size, (load.end - 1) // self._block_size
            self._bad_blocks.update(load.block_ids[first : last + 1])
            if not load.at_once:
                self._loaded.add(load.request_id)
        self._saved.update(save.request_id for save in orders.saves)

    def take_finished(self, finished: set[str]) -> tuple[set[str], set[str]]:
        saved, loaded, self._saved, self._loaded = self._saved, self._loaded, set(), set()
        return saved, loaded

    def close(self) -> None:
        """Nothing runs here."""
