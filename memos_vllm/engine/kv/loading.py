"""Load a request's KV, layer by layer, while the engine may compute on it already.

All segments of a chain are open at once: the loader writes their first layers into the paged cache,
then their second ones, and so on; several threads take a layer each.  A step that computes on a load
waits, in each attention layer, for that layer alone, so that reading and computing overlap.  Small
segments are written together: one call for each of fifty turns of a conversation, in each of thirty
layers, would cost the step more in the interpreter than in memory bandwidth.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

import torch

from memos_vllm.activation.direct_io import Scratch
from memos_vllm.activation.files import SegmentReader
from memos_vllm.activation.names import SegmentName
from memos_vllm.activation.rotation import Rotation
from memos_vllm.activation.tensors import TensorStore
from memos_vllm.engine.kv.blocks import PagedCache
from memos_vllm.engine.kv.device import CopyStream
from memos_vllm.engine.kv.messages import Load, Piece
from memos_vllm.engine.kv.progress import Progress
from memos_vllm.engine.kv.threads import beside_engine
from memos_vllm.errors import DamagedPayload

log = logging.getLogger(__name__)
_OPEN_AT_ONCE = 256
_LAYERS_AHEAD = 4
"""Layers that the system reads ahead from disk."""
_COMPUTED = "KV could not be loaded, it is computed: %s"
_RUN_BYTES = 1 << 20
"""Bytes of a layer that are written together: they fit a core's cache."""
Rotate = Callable[[torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class _OpenSegment:
    """A segment whose file is open for a load."""

    piece: Piece
    reader: SegmentReader
    tier: str
    slots: torch.Tensor
    """(tokens,) of the paged cache, for the tokens that are loaded."""
    window: slice
    """The tokens of the segment that are loaded."""
    rotate: Rotate
    _file: contextlib.ExitStack

    def close(self, error: Exception | None = None) -> None:
        """Close the file.

        Args:
            error: of a read; the store wipes the file where it says that it is damaged.
        """
        if error is None:
            self._file.close()
            return
        with contextlib.suppress(type(error)):
            self._file.__exit__(type(error), error, error.__traceback__)


class _Run:
    """Adjacent segments of one tier that are written together."""

    def __init__(self, first: int, segments: Sequence[_OpenSegment]) -> None:
        """
        Args:
            first: position of the first segment among all that are open.
            segments: adjacent ones of one tier.
        """
        self.first, self.segments = first, segments
        self.tier = segments[0].tier
        self.ends = list(itertools.accumulate(len(segment.slots) for segment in segments))
        """The end of each segment's tokens in the run."""
        self.slots = torch.cat([segment.slots for segment in segments])
        self._shape = dataclasses.replace(segments[0].reader.shape, tokens=self.ends[-1])

    def room(self, scratch: Scratch) -> torch.Tensor:
        """Memory for a layer of the run, (2, tokens, heads, head_dim)."""
        raw = scratch.take(self._shape.layer_bytes)
        return raw.view(self._shape.dtype).view(self._shape.sizes()[1:])


def _runs(opened: Sequence[_OpenSegment]) -> list[_Run]:
    runs: list[_Run] = []
    start, size = 0, 0
    for position, segment in enumerate(opened):
        size += segment.reader.shape.layer_bytes
        following = opened[position + 1] if position + 1 < len(opened) else None
        if (
            following is None
            or following.tier != segment.tier
            or size + following.reader.shape.layer_bytes > _RUN_BYTES
        ):
            runs.append(_Run(start, opened[start : position + 1]))
            start, size = position + 1, 0
    return runs


class _Memory:
    """Scratch memory of one loading thread."""

    def __init__(self, pinned: bool) -> None:
        self.read = Scratch(pinned)
        self.joined = Scratch(pinned)


class Loader:
    """Writes segments into the paged cache. One load at a time."""

    def __init__(
        self,
        store: TensorStore,
        cache: PagedCache,
        named: Callable[[Piece], SegmentName],
        rotation: Rotation | None,
        threads: int = 1,
        stream: CopyStream | None = None,
    ) -> None:
        self._store = store
        self._stream = stream or CopyStream(cache.device)
        self._cache = cache
        self._named = named
        self._rotation = rotation
        self._pool = ThreadPoolExecutor(threads, "memos-kv-layers", beside_engine)
        self._memories = [_Memory(cache.device.type == "cuda") for _ in range(threads)]

    def load(
        self,
        load: Load,
        counts: Counter[str],
        progress: Progress | None = None,
        after: Any = None,
    ) -> int:
        """Load up to the first segment that is damaged or missing.

        Args:
            load: segments and blocks.
            counts: of tokens and seconds, by the names of `stats.COUNTERS`; added to.
            progress: of a load that a step computes on.
            after: an event of `device.launched`: the blocks are free of earlier steps behind it.

        Returns:
            The end of the loaded tokens; `load.end` where nothing failed.
        """
        groups = [
            load.pieces[i : i + _OPEN_AT_ONCE] for i in range(0, len(load.pieces), _OPEN_AT_ONCE)
        ]
        self._stream.after(after)
        for group in groups:
            # The layers of the last group are written when those of all other groups are.
            watching = progress if group is groups[-1] else None
            with self._stream.used():
                failed = self._load_together(load, group, counts, watching)
            if failed is not None:
                return max(failed.start, load.start)
        return load.end

    def close(self) -> None:
        self._pool.shutdown(wait=True)

    def _load_together(
        self,
        load: Load,
        pieces: Sequence[Piece],
        counts: Counter[str],
        progress: Progress | None,
    ) -> Piece | None:
        """Returns the first piece that is damaged or missing; None: all are loaded."""
        state = LoadState(self._cache.layers, len(pieces), progress)
        opened = self._open_all(load, pieces, state)
        work: list[Future[None]] = []
        try:
            # This thread only waits: the engine may have bound it to a core.
            runs = _runs(opened)
            work += [self._pool.submit(self._work, runs, state, own) for own in self._memories]
            wait(work, return_when=FIRST_EXCEPTION)
            state.stop()  # all layers are taken, or a thread failed by a bug
            for thread in work:
                thread.result()
        finally:
            wait(work)
            for position, segment in enumerate(opened):
                segment.close(state.errors.get(position))
        for tier, seconds in state.seconds.items():
            counts[f"read_seconds_{tier}"] += seconds
        for segment in opened[: state.whole]:
            self._count(load, segment, counts)
        return None if state.whole == len(pieces) else pieces[state.whole]

    def _open_all(
        self, load: Load, pieces: Sequence[Piece], state: LoadState
    ) -> list[_OpenSegment]:
        """Open the pieces up to the first one that is damaged or missing."""
        opening = [self._pool.submit(self._open, load, piece) for piece in pieces]
        wait(opening)
        opened = []
        with contextlib.ExitStack() as on_bug:
            for future in opening:
                if future.exception() is None:
                    on_bug.callback(future.result().close)
            for position, future in enumerate(opening):
                try:
                    opened.append(future.result())
                except (DamagedPayload, OSError) as error:
                    log.warning(_COMPUTED, error)
                    state.fail(position, error)
            on_bug.pop_all()
        for segment in opened[state.whole :]:
            segment.close()
        return opened[: state.whole]

    def _open(self, load: Load, piece: Piece) -> _OpenSegment:
        """Raises DamagedPayload or OSError."""
        with self._stream.used(), contextlib.ExitStack() as stack:
            reader, tier = stack.enter_context(self._store.open(self._named(piece)))
            expected = self._cache.shape(piece.end - piece.start)
            if reader.shape != expected:
                raise DamagedPayload(f"KV of another shape: {reader.shape}, not {expected}")
            if reader.metadata.get("digest") != piece.digest:
                raise DamagedPayload("KV of other tokens than its name says")
            rotate = self._rotate_by(piece.shift)
            start, end = max(piece.start, load.start), min(piece.end, load.end)
            slots = self._cache.slots(load.block_ids, start, end)
            window = slice(start - piece.start, end - piece.start)
            return _OpenSegment(piece, reader, tier, slots, window, rotate, stack.pop_all())

    def _work(self, runs: Sequence[_Run], state: LoadState, memory: _Memory) -> None:
        """Write layers until all are taken or the load stops."""
        with self._stream.used():
            while (layer := state.next_layer()) is not None:
                for run in runs:
                    if run.first >= state.whole:
                        break
                    started = time.perf_counter()
                    self._write_run(run, layer, state, memory)
                    state.took(run.tier, time.perf_counter() - started)
                state.written(layer)

    def _write_run(self, run: _Run, layer: int, state: LoadState, memory: _Memory) -> None:
        """Write a layer of a run's segments, up to the first one that is damaged."""
        alone = len(run.segments) == 1
        joined = torch.empty(0) if alone else run.room(memory.joined)
        tokens = 0
        for position, segment in enumerate(run.segments, run.first):
            if position >= state.whole:
                break
            try:
                found = self._read(segment, layer, memory.read)
            except (DamagedPayload, OSError) as error:
                log.warning(_COMPUTED, error)
                state.fail(position, error)
                break
            end = run.ends[position - run.first]
            if alone:
                joined = found
            else:
                joined[:, tokens:end] = found
            tokens = end
        if tokens:
            self._write(run, layer, joined[:, :tokens])

    def _read(self, segment: _OpenSegment, layer: int, scratch: Scratch) -> torch.Tensor:
        """One layer of its window, (2, tokens, heads, head_dim). Raises DamagedPayload or OSError."""
        if segment.tier == "disk":
            segment.reader.will_need(layer + _LAYERS_AHEAD)
        return segment.reader.layer(layer, scratch)[:, segment.window]

    def _write(self, run: _Run, layer: int, joined: torch.Tensor) -> None:
        """Write one layer into the paged cache.

        Args:
            run: segments.
            layer: index.
            joined: (2, tokens, heads, head_dim), of the run's first segments.
        """
        keys = joined[0].to(self._cache.device, non_blocking=True)
        start, tokens = 0, len(keys)
        for segment, end in zip(run.segments, run.ends, strict=True):
            if len(run.segments) == 1:
                keys = segment.rotate(keys)
            elif segment.rotate is not _unrotated and end <= tokens:
                keys[start:end] = segment.rotate(keys[start:end])
            start = end
        self._cache.write(layer, run.slots[:tokens], keys, joined[1])
        self.wait_for_device()  # before the next layer overwrites the memory

    def _count(self, load: Load, segment: _OpenSegment, counts: Counter[str]) -> None:
        piece = segment.piece
        counts[f"loaded_tokens_{segment.tier}"] += min(piece.end, load.end) - max(
            piece.start, load.start
        )
        counts[f"read_tokens_{segment.tier}"] += piece.end - piece.start
        counts["loaded_segments"] += 1

    def _rotate_by(self, shift: int) -> Rotate:
        """A function that moves keys by `shift` tokens. Raises DamagedPayload: they do not move."""
        if shift == 0:
            return _unrotated
        if self._rotation is None:
            raise DamagedPayload("the keys of this model cannot be moved")
        return self._rotation.by(shift)

    def wait_for_device(self) -> None:
        """Wait until all that was written is in the cache."""
        self._stream.synchronize()


class LoadState:
    """State of one load, shared by its threads. Thread-safe."""

    def __init__(self, layers: int, pieces: int, progress: Progress | None) -> None:
        self._layers: Iterator[int] = iter(range(layers))
        self._progress = progress
        self._lock = threading.Lock()
        self.whole = pieces
        """Pieces, from the first on, without a failure."""
        self.errors: dict[int, Exception] = {}
        self.seconds: Counter[str] = Counter()

    def next_layer(self) -> int | None:
        with self._lock:
            return next(self._layers, None)

    def stop(self) -> None:
        """Give out no more layers."""
        with self._lock:
            self._layers = iter(())

    def written(self, layer: int) -> None:
        if self._progress is not None:
            self._progress.written(layer)

    def took(self, tier: str, seconds: float) -> None:
        with self._lock:
            self.seconds[tier] += seconds  # type: ignore[assignment]

    def fail(self, position: int, error: Exception) -> None:
        with self._lock:
            self.whole = min(self.whole, position)
            self.errors[position] = error


def _unrotated(keys: torch.Tensor) -> torch.Tensor:
    return keys
