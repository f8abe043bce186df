"""Context backoff: in which other contexts a cube's KV is kept, and which comes closest.

Like back-off in an n-gram model, with cubes as the words: the longest run of the same cubes right
before it wins, then the most recently used.  The index is a folder per text, with one entry per
segment, made by whoever keeps the segment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path

from memos_vllm.activation.chain import Segment, own_digest
from memos_vllm.activation.files import SegmentReader
from memos_vllm.activation.orders import Source
from memos_vllm.activation.store import Namer, SegmentName, SegmentStore
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
    """`id@sequence` of what stood before it, and itself."""


class ContextIndex:
    def __init__(self, store: SegmentStore, namer: Namer, most_kl: float = math.inf) -> None:
        """Args: most_kl: a context that was measured to cost more, nats, is not used."""
        self._store = store
        self._namer = namer
        self._most_kl = most_kl
        self._headers: OrderedDict[str, Context | None] = OrderedDict()

    def reach(self, tokens: Sequence[int], segments: Sequence[Segment]) -> int:
        """How many of these segments, from the first on, are kept exactly."""
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
        """For each segment from `first` on, the best other context; ends where there is none.

        Args:
            scopes: those that the person asking may be served from.
            may_read: whether they may read all of these cubes (`id@sequence`).
            without: keys of segments that are no other context.
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
        """What its KV cost in other places, as far as that was measured."""
        known = self._store.quality.read(str(self._namer.at(context.name.scope, context.name.key)))
        return known.kl if known else None

    def _contexts(self, digest: str) -> list[Context]:
        """Of one text under the served model, the latest first."""
        entries = self._store.contexts(digest)[:_CONSIDERED]
        known = (self._context(name) for name in entries)
        return [context for context in known if context is not None]

    def _context(self, text: str) -> Context | None:
        if text in self._headers:
            self._headers.move_to_end(text)
            context = self._headers[text]
        else:
            try:
                context = self._headers[text] = self._read(text)
            except OSError:
                return None  # not there at the moment
            if len(self._headers) > _CACHED_HEADERS:
                self._headers.popitem(last=False)
        if context is None or not self._store.has_all(self._ranks(context.name)):
            return None
        return context

    def _read(self, text: str) -> Context | None:
        model, scope, key = text.split("/")
        key, _, rank = key.partition(".")
        if model != self._namer.model.hex()[:16] or rank not in ("", self._namer.ranks[0]):
            return None
        path: Path = self._store.disk.path(text)
        with contextlib.suppress(DamagedPayload, KeyError, ValueError):
            with SegmentReader(path) as reader:
                about = reader.metadata
            return Context(
                SegmentName(model, scope, key),
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
