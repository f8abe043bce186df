"""Loading a request's KV, layer by layer, while the engine may be computing on it already.

All segments of a chain are open at once: first their first layers are put in place, then their second
ones, and so on.  A step that computes on what is being loaded waits, in each attention layer, for that
layer alone, so that reading and computing overlap.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence

import torch

from memos_vllm.activation.files import Scratch
from memos_vllm.activation.keeper import SegmentKeeper
from memos_vllm.activation.store import SegmentName
from memos_vllm.engine.kv.blocks import PagedCache
from memos_vllm.engine.kv.messages import Load, Piece
from memos_vllm.engine.kv.rope import Rotation
from memos_vllm.errors import DamagedPayload

log = logging.getLogger(__name__)
_OPEN_AT_ONCE = 256
Keys = Callable[[torch.Tensor], torch.Tensor]


class Progress:
    """Up to which layer a load that a step computes on has come."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._placed = 0
        self._over = False
        self.waited: set[int] = set()
        """Layers that asked."""

    def placed(self, layers: int) -> None:
        with self._condition:
            self._placed = layers
            self._condition.notify_all()

    def finish(self) -> None:
        """Loaded or failed: nobody waits any more."""
        with self._condition:
            self._over = True
            self._condition.notify_all()

    def wait(self, layer: int) -> None:
        self.waited.add(layer)
        with self._condition:
            self._condition.wait_for(lambda: self._over or self._placed > layer)

    def wait_until_over(self) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._over)


class Loader:
    """Puts segments in their places in the paged cache. One thread at a time."""

    def __init__(
        self,
        store: SegmentKeeper,
        cache: PagedCache,
        named: Callable[[Piece], SegmentName],
        rotation: Rotation | None,
    ) -> None:
        self._store = store
        self._cache = cache
        self._named = named
        self._rotation = rotation
        self._scratch = Scratch(cache.device.type == "cuda")

    def load(self, load: Load, counts: Counter[str], progress: Progress | None = None) -> int:
        """Returns the token that was reached: `load.end`, unless something is damaged or missing.

        Args:
            counts: of tokens and seconds, by the names of `stats.COUNTERS`; added to.
        """
        for piece in load.pieces:
            self._store.will_need(self._named(piece))
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

    def _load_together(
        self,
        load: Load,
        pieces: Sequence[Piece],
        counts: Counter[str],
        progress: Progress | None,
    ) -> Piece | None:
        """Layer by layer; returns the first piece that could not be loaded."""
        streams = [self._place(load, piece, counts) for piece in pieces]
        whole = len(streams)
        for layer in range(self._cache.layers + 1):  # the last turn closes the files
            for position in range(whole):
                if not self._advance(streams[position], counts):
                    whole = position  # those before it are not touched by that
                    break
            if progress is not None:
                progress.placed(layer + 1)
        for stream in streams:
            stream.close()
        return None if whole == len(pieces) else pieces[whole]

    def _advance(self, stream: Iterator[str | None], counts: Counter[str]) -> bool:
        started = time.perf_counter()
        try:
            tier = next(stream, None)
        except (DamagedPayload, OSError) as error:
            log.warning("KV that could not be loaded is computed: %s", error)
            return False
        except Exception:
            log.exception("KV that could not be loaded is computed")
            return False
        if tier is not None:
            counts[f"read_seconds_{tier}"] += time.perf_counter() - started  # type: ignore[assignment]
        return True

    def _place(
        self, load: Load, piece: Piece, counts: Counter[str]
    ) -> Generator[str | None, None, None]:
        """One segment into its place, a layer at a turn. Yields the tier that it comes from."""
        start, end = max(piece.start, load.start), min(piece.end, load.end)
        expected = self._cache.shape(piece.end - piece.start)
        with self._store.open(self._named(piece)) as (reader, tier):
            if reader.shape != expected:
                raise DamagedPayload(f"KV of another shape: {reader.shape}, not {expected}")
            if reader.metadata.get("digest") != piece.digest:
                raise DamagedPayload("KV of other tokens than its name says")
            slots = self._cache.slots(load.block_ids, start, end)
            window = slice(start - piece.start, end - piece.start)
            turn = self._turn(piece.shift)
            for layer, (k, v) in enumerate(reader.layers(self._scratch)):
                self._cache.write(layer, slots, turn(k[window]), v[window])
                self.wait_for_device()  # before the memory is used for the next layer
                yield tier
        counts[f"loaded_tokens_{tier}"] += end - start
        counts[f"read_tokens_{tier}"] += piece.end - piece.start
        counts["loaded_segments"] += 1

    def _turn(self, shift: int) -> Keys:
        """Brings keys to a place `shift` tokens later. Raises DamagedPayload: not for this model."""
        if shift == 0:
            return lambda k: k
        if self._rotation is None:
            raise DamagedPayload("the keys of this model cannot be moved")
        return self._rotation.by(shift)

    def wait_for_device(self) -> None:
        if self._cache.device.type == "cuda":
            torch.cuda.current_stream(self._cache.device).synchronize()


@contextlib.contextmanager
def finishing(progress: Progress | None) -> Iterator[None]:
    """Whatever happens inside, nobody waits for it afterwards."""
    try:
        yield
    finally:
        if progress is not None:
            progress.finish()
