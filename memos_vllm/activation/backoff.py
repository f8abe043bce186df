"""Context backoff: find a cube's KV that was computed in another context, the most similar first.

Like back-off in an n-gram model, with cubes as the words: the longest run of the same cubes right
before it wins, then the most recently used.  The index is a folder per text, with one entry per
segment, made by the process that saves the segment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable, Container, Iterable, MutableMapping, Sequence

from cachetools import LRUCache

from memos_vllm.activation.chain import Segment, own_digest
from memos_vllm.activation.files import SegmentReader
from memos_vllm.activation.names import Namer, SegmentName
from memos_vllm.activation.orders import Source
from memos_vllm.activation.store import SegmentStore
from memos_vllm.activation.tombstones import short
from memos_vllm.errors import DamagedPayload

_CACHED_HEADERS = 16_384
_CONSIDERED = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """Where a text's KV was computed."""

    name: SegmentName
    start: int
    scope: str
    """Digest of the whole scope, a client's own salt included."""
    cubes: tuple[str, ...]
    """`id@sequence` of the cubes before it, and of itself."""


class ContextIndex:
    def __init__(self, store: SegmentStore, namer: Namer, most_kl: float = math.inf) -> None:
        """
        Args:
            store: segments and their contexts.
            namer: of the served model.
            most_kl: nats; a context that was measured to cost more is not used.
        """
        self._store = store
        self._namer = namer
        self._most_kl = most_kl
        self._headers: MutableMapping[SegmentName, Context | None] = LRUCache(_CACHED_HEADERS)
        self._lock = threading.Lock()

    def reach(self, tokens: Sequence[int], segments: Sequence[Segment]) -> int:
        """How many of these segments, from the first on, are in the store."""
        count = 0
        for names in self._namer.names(tokens, segments):
            if not self._store.has_all(names):
                break
            count += 1
        return count

    def closest(
        self,
        tokens: Sequence[int],
        segments: Sequence[Segment],
        first: int,
        scopes: Iterable[str],
        may_read: Callable[[Sequence[str]], bool],
        without: Container[str] = (),
    ) -> list[Source]:
        """For each segment from `first` on, the best other context; ends at a segment that has none.

        Args:
            scopes: whose segments the caller may use.
            may_read: whether the caller may read all of these cubes (`id@sequence`).
            without: keys of segments that do not count as another context.
        """
        allowed = {short(scope) for scope in scopes}
        found = []
        for position in range(first, len(segments)):
            segment = segments[position]
            start = segments[position - 1].end if position else 0
            digest = own_digest(tokens[start : segment.end])
            contexts = [
                (_common(context.cubes, segment.cubes), context)
                for context in self._contexts(digest)
                if context.scope in allowed and context.name.key not in without
            ]
            # Best first, so that files and the vault are asked about hardly more than one.
            for common, context in sorted(contexts, key=lambda pair: -pair[0]):
                kl = self._kl(context)
                if (kl is None or kl <= self._most_kl) and may_read(context.cubes):
                    found.append(_source(position, context, common, kl))
                    break
            else:
                break
        return found

    def _kl(self, context: Context) -> float | None:
        """Measured cost of its KV in other contexts, nats; None: not measured yet."""
        known = self._store.quality.read(self._namer.at(context.name.scope, context.name.key))
        return known.kl if known else None

    def _contexts(self, digest: str) -> list[Context]:
        """Contexts of one text under the served model, the latest first."""
        entries = self._store.contexts(digest)[:_CONSIDERED]
        known = (self._context(name) for name in entries)
        return [context for context in known if context is not None]

    def _context(self, name: SegmentName) -> Context | None:
        """The context of a segment; None: it is another model's, damaged, or not complete."""
        with self._lock:
            is_read = name in self._headers
            context = self._headers.get(name)
        if not is_read:
            try:
                context = self._read(name)
            except OSError:
                return None  # evicted or forgotten: the next lookup tries again
            with self._lock:
                self._headers[name] = context
        if context is None or not self._store.has_all(self._ranks(context.name)):
            return None
        return context

    def _read(self, name: SegmentName) -> Context | None:
        if name.model != self._namer.model.hex()[:16]:
            return None
        if name.rank not in ("", self._namer.ranks[0]):
            return None
        with contextlib.suppress(DamagedPayload, KeyError, ValueError):
            with SegmentReader(self._store.disk.path(str(name))) as reader:
                about = reader.metadata
            return Context(
                dataclasses.replace(name, rank=""),
                int(about["start"]),
                about["scope"],
                tuple(about["cubes"].split()),
            )
        return None

    def _ranks(self, name: SegmentName) -> list[SegmentName]:
        return [dataclasses.replace(name, rank=rank) for rank in self._namer.ranks]


def _source(position: int, context: Context, common: int, kl: float | None) -> Source:
    return Source(
        position,
        context.name.scope,
        context.name.key,
        context.start,
        max(common - 1, 0),
        max(len(context.cubes) - 1, 0),
        kl,
    )


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the run of equal cubes at the end of both."""
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count
