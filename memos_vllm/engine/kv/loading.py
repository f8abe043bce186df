"""Loading a request's KV, layer by layer, while the engine may be computing on it already.

All segments of a chain are open at once: first their first layers are put in place, then their second
ones, and so on, several threads taking a layer each.  A step that computes on what is being loaded
waits, in each attention layer, for that layer alone, so that reading and computing overlap.  What is
small is put in place together: of a call for each of fifty turns of a conversation, in each of thirty
layers, the step that computes meanwhile would notice the interpreter more than the memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import torch

from memos_vllm.activation.direct_io import Scratch
from memos_vllm.activation.files import SegmentReader
from memos_vllm.activation.store import SegmentName
from memos_vllm.activation.tensors import TensorStore
from memos_vllm.engine.kv.blocks import PagedCache
from memos_vllm.engine.kv.messages import Load, Piece
from memos_vllm.engine.kv.rope import Rotation
from memos_vllm.errors import DamagedPayload

log = logging.getLogger(__name__)
_OPEN_AT_ONCE = 256
_LAYERS_AHEAD = 4
"""That the system reads from disk while one is put in place."""
_MOST_THREADS = 4
_RUN_BYTES = 1 << 20
"""Of a layer, so many are put in place together, which a core's own cache holds."""
Keys = Callable[[torch.Tensor], torch.Tensor]


class Progress:
    """Which layers of a load that a step computes on are in their places."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._placed: set[int] = set()
        self._over = False
        self.waited: set[int] = set()
        """Layers that asked."""

    def placed(self, layer: int) -> None:
        with self._condition:
            self._placed.add(layer)
            self._condition.notify_all()

    def finish(self) -> None:
        """Loaded or failed: nobody waits any more."""
        with self._condition:
            self._over = True
            self._condition.notify_all()

    def wait(self, layer: int) -> None:
        self.waited.add(layer)
        with self._condition:
            self._condition.wait_for(lambda: self._over or layer in self._placed)

    def wait_until_over(self) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._over)


class _Open:
    """A segment that is being put in its place."""

    def __init__(
        self,
        piece: Piece,
        context: contextlib.AbstractContextManager[tuple[SegmentReader, str]],
    ) -> None:
        """Raises DamagedPayload or OSError."""
        self.piece = piece
        self._context = context
        self.reader, self.tier = context.__enter__()
        self.slots = torch.empty(0)
        self.window = slice(0)
        """Of the segment's tokens, those that are loaded."""
        self.rotate: Keys = _as_it_is

    def close(self, error: Exception | None = None) -> None:
        """Args: error: what was wrong with it; the store may want to do something about it."""
        if error is None:
            self._context.__exit__(None, None, None)
            return
        with contextlib.suppress(type(error)):
            self._context.__exit__(type(error), error, error.__traceback__)


class _Run:
    """Segments of one tier, one behind the other, that are put in place together."""

    def __init__(self, first: int, segments: Sequence[_Open]) -> None:
        """Args: first: the position of the first one among all that are open."""
        self.first, self.segments = first, segments
        self.tier = segments[0].tier
        self.ends = list(itertools.accumulate(len(segment.slots) for segment in segments))
        """Of each segment's tokens in the run."""
        self.slots = torch.cat([segment.slots for segment in segments])
        self._shape = dataclasses.replace(segments[0].reader.shape, tokens=self.ends[-1])

    def room(self, scratch: Scratch) -> torch.Tensor:
        """(2, tokens, heads, head_dim) for a layer of all."""
        raw = scratch.take(self._shape.layer_bytes)
        return raw.view(self._shape.dtype).view(self._shape.sizes()[1:])


def _runs(opened: Sequence[_Open]) -> list[_Run]:
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
    """Of a thread that loads."""

    def __init__(self, pinned: bool) -> None:
        self.read = Scratch(pinned)
        self.joined = Scratch(pinned)


class Loader:
    """Puts segments in their places in the paged cache. One load at a time."""

    def __init__(
        self,
        store: TensorStore,
        cache: PagedCache,
        named: Callable[[Piece], SegmentName],
        rotation: Rotation | None,
        threads: int = 1,
    ) -> None:
        self._store = store
        self._cache = cache
        self._named = named
        self._rotation = rotation
        self._pool = ThreadPoolExecutor(threads, "memos-kv-layers", _unbind)
        self._memories = [_Memory(cache.device.type == "cuda") for _ in range(threads)]

    def load(self, load: Load, counts: Counter[str], progress: Progress | None = None) -> int:
        """Returns the token that was reached: `load.end`, unless something is damaged or missing.

        Args:
            counts: of tokens and seconds, by the names of `stats.COUNTERS`; added to.
        """
        groups = [
            load.pieces[i : i + _OPEN_AT_ONCE] for i in range(0, len(load.pieces), _OPEN_AT_ONCE)
        ]
        for group in groups:
            # Behind the layers of a last group stand all others.
            watching = progress if group is groups[-1] else None
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
        """Returns the first piece that could not be loaded."""
        turn = LoadState(self._cache.layers, len(pieces), progress)
        opened: list[_Open] = []
        for position, segment in enumerate(self._pool.map(partial(self._open, load), pieces)):
            if not isinstance(segment, _Open):
                turn.fail(position, segment)
            elif position < turn.whole:
                opened.append(segment)
            else:
                segment.close()
        # This thread only waits: it may be one of those that the engine binds to a core.
        runs = _runs(opened)
        workers = [self._pool.submit(self._work, runs, turn, own) for own in self._memories]
        wait(workers)
        for worker in workers:
            worker.result()
        for tier, seconds in turn.seconds.items():
            counts[f"read_seconds_{tier}"] += seconds
        for position, segment in enumerate(opened):
            segment.close(turn.errors.get(position))
            if position < turn.whole:
                self._count(load, segment, counts)
        return None if turn.whole == len(pieces) else pieces[turn.whole]

    def _open(self, load: Load, piece: Piece) -> _Open | Exception:
        """Returns what was wrong with it, if anything."""
        try:
            return self._opened(load, piece)
        except (DamagedPayload, OSError) as error:
            log.warning("KV that could not be loaded is computed: %s", error)
            return error
        except Exception as error:
            log.exception("KV that could not be loaded is computed")
            return error

    def _opened(self, load: Load, piece: Piece) -> _Open:
        segment = _Open(piece, self._store.open(self._named(piece)))
        try:
            expected = self._cache.shape(piece.end - piece.start)
            if segment.reader.shape != expected:
                raise DamagedPayload(f"KV of another shape: {segment.reader.shape}, not {expected}")
            if segment.reader.metadata.get("digest") != piece.digest:
                raise DamagedPayload("KV of other tokens than its name says")
            segment.rotate = self._rotate_by(piece.shift)
            start, end = max(piece.start, load.start), min(piece.end, load.end)
            segment.slots = self._cache.slots(load.block_ids, start, end)
            segment.window = slice(start - piece.start, end - piece.start)
        except Exception as error:
            segment.close(error)
            raise
        return segment

    def _work(self, runs: Sequence[_Run], turn: LoadState, memory: _Memory) -> None:
        """Layers into their places, until none is left or none is wanted."""
        while (layer := turn.next_layer()) is not None:
            for run in runs:
                if run.first >= turn.whole:
                    break  # those before it are not touched by that
                started = time.perf_counter()
                try:
                    self._place(run, layer, turn, memory)
                except Exception as error:
                    log.exception("KV that could not be loaded is computed")
                    turn.fail(run.first, error)
                turn.took(run.tier, time.perf_counter() - started)
            turn.placed(layer)

    def _place(self, run: _Run, layer: int, turn: LoadState, memory: _Memory) -> None:
        """A layer of a run's segments, up to the first one that fails."""
        alone = len(run.segments) == 1
        joined = torch.empty(0) if alone else run.room(memory.joined)
        tokens = 0
        for position, segment in enumerate(run.segments, run.first):
            if position >= turn.whole:
                break
            try:
                found = self._read(segment, layer, memory.read)
            except (DamagedPayload, OSError) as error:
                log.warning("KV that could not be loaded is computed: %s", error)
                turn.fail(position, error)
                break
            end = run.ends[position - run.first]
            if alone:
                joined = found
            else:
                joined[:, tokens:end] = found
            tokens = end
        if tokens:
            self._write(run, layer, joined[:, :tokens])

    def _read(self, segment: _Open, layer: int, scratch: Scratch) -> torch.Tensor:
        """(2, tokens, heads, head_dim), what is loaded of it. Raises DamagedPayload or OSError."""
        if segment.tier == "disk":
            segment.reader.will_need(layer + _LAYERS_AHEAD)
        return segment.reader.layer(layer, scratch)[:, segment.window]

    def _write(self, run: _Run, layer: int, joined: torch.Tensor) -> None:
        """Args: joined: (2, tokens, heads, head_dim), of the run's first segments."""
        keys = joined[0].to(self._cache.device, non_blocking=True)
        start, tokens = 0, len(keys)
        for segment, end in zip(run.segments, run.ends, strict=True):
            if len(run.segments) == 1:
                keys = segment.rotate(keys)
            elif segment.rotate is not _as_it_is and end <= tokens:
                keys[start:end] = segment.rotate(keys[start:end])
            start = end
        self._cache.write(layer, run.slots[:tokens], keys, joined[1])
        self.wait_for_device()  # before the memory is used for the next one

    def _count(self, load: Load, segment: _Open, counts: Counter[str]) -> None:
        piece = segment.piece
        counts[f"loaded_tokens_{segment.tier}"] += min(piece.end, load.end) - max(
            piece.start, load.start
        )
        counts[f"read_tokens_{segment.tier}"] += piece.end - piece.start
        counts["loaded_segments"] += 1

    def _rotate_by(self, shift: int) -> Keys:
        """Brings keys to a place `shift` tokens later. Raises DamagedPayload: not for this model."""
        if shift == 0:
            return _as_it_is
        if self._rotation is None:
            raise DamagedPayload("the keys of this model cannot be moved")
        return self._rotation.by(shift)

    def wait_for_device(self) -> None:
        if self._cache.device.type == "cuda":
            torch.cuda.current_stream(self._cache.device).synchronize()


class LoadState:
    """What several threads share of one load."""

    def __init__(self, layers: int, pieces: int, progress: Progress | None) -> None:
        self._layers = iter(range(layers))
        self._progress = progress
        self._lock = threading.Lock()
        self.whole = pieces
        """Pieces, from the first on, of which nothing has failed."""
        self.errors: dict[int, Exception] = {}
        self.seconds: Counter[str] = Counter()

    def next_layer(self) -> int | None:
        with self._lock:
            return next(self._layers, None)

    def placed(self, layer: int) -> None:
        if self._progress is not None:
            self._progress.placed(layer)

    def took(self, tier: str, seconds: float) -> None:
        with self._lock:
            self.seconds[tier] += seconds  # type: ignore[assignment]

    def fail(self, position: int, error: Exception) -> None:
        with self._lock:
            self.whole = min(self.whole, position)
            self.errors[position] = error


def loading_threads() -> int:
    """Threads that a load beside a step may use: the engine's own wait for what they bring."""
    return min(_MOST_THREADS, len(_cores()))


def _cores() -> set[int]:
    """Those that this process's threads may run on."""
    cores: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            cores |= os.sched_getaffinity(int(task.name))
    return cores


def _unbind() -> None:
    """Let this thread run on all cores of the process, and compute alone.

    The engine binds each of its threads to a core, and a thread inherits that of whoever starts it.
    """
    os.sched_setaffinity(0, _cores())
    torch.set_num_threads(1)


def _as_it_is(keys: torch.Tensor) -> torch.Tensor:
    return keys


@contextlib.contextmanager
def finishing(progress: Progress | None) -> Iterator[None]:
    """Whatever happens inside, nobody waits for it afterwards."""
    try:
        yield
    finally:
        if progress is not None:
            progress.finish()
