"""KV events of kept segments, for routers that follow what each server holds.

vLLM's own events tell of the blocks in the engine, loaded ones included. These tell of the blocks whose KV is
kept behind it: `BlockStored` with the medium `CPU` or `STORAGE` when a segment is saved, `BlockRemoved` when it
is gone. A block that two segments share is in neither's events.

Source of the format: `vllm.distributed.kv_events`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from cachetools import LRUCache

from memos_vllm.activation.names import SegmentName
from memos_vllm.activation.store import SegmentStore

log = logging.getLogger("vllm.memos_kv")
_LOOK_SECONDS = 5.0
_LOOK_AT = 64
"""Segments whose presence one look checks."""
_KNOWN = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    """The whole blocks of a segment."""

    names: tuple[SegmentName, ...]
    """On every worker."""
    hashes: tuple[Any, ...]
    parent: Any
    tokens: tuple[int, ...]
    adapter: Any
    """vLLM's LoRA request; None: the model's own KV."""


class SegmentEvents:
    """Events since the last `take`. One thread calls it: the engine core's."""

    def __init__(self, store: SegmentStore, block_size: int) -> None:
        self._store, self._block_size = store, block_size
        self._saving: dict[str, list[_Kept]] = {}
        self._kept: LRUCache[tuple[SegmentName, ...], tuple[_Kept, str]] = LRUCache(_KNOWN)
        self._stored: list[Any] = []
        self._looked = time.monotonic()
        self._next = 0

    def saving(
        self,
        request: Any,
        parts: Sequence[tuple[tuple[SegmentName, ...], int, int]],
    ) -> None:
        """Note what a finished request saves.

        Args:
            parts: names on every worker, first token and end of each segment.
        """
        hashes, size = request.block_hashes, self._block_size
        for names, start, end in parts:
            first, last = -(-start // size), min(end // size, len(hashes))
            if first < last:
                kept = _Kept(
                    names,
                    tuple(hashes[first:last]),
                    hashes[first - 1] if first else None,
                    tuple(request.prompt_token_ids[first * size : last * size]),
                    request.lora_request,
                )
                self._saving.setdefault(request.request_id, []).append(kept)

    def saved(self, request_id: str) -> None:
        """Announce those segments of a request that are in the store."""
        for kept in self._saving.pop(request_id, ()):
            tiers = {self._store.where(name) for name in kept.names}
            if None in tiers:
                continue
            medium = _medium("disk" if "disk" in tiers else "ram")
            self._stored.append(_stored(kept, self._block_size, medium))
            self._kept[kept.names] = (kept, medium)

    def take(self) -> Iterator[Any]:
        """vLLM's events since the last call; what is gone is noticed within seconds of steps."""
        yield from self._stored
        self._stored = []
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        everything = list(self._kept)
        looked_at = everything[self._next : self._next + _LOOK_AT]
        self._next = self._next + _LOOK_AT if self._next + _LOOK_AT < len(everything) else 0
        for names in looked_at:
            if not self._store.has_all(names):
                kept, medium = self._kept.pop(names)
                yield _removed(kept, medium)


def events_of(vllm_config: Any, store: SegmentStore, block_size: int) -> SegmentEvents | None:
    """None: the server publishes no KV events."""
    config = getattr(vllm_config, "kv_events_config", None)
    if config is None or not config.enable_kv_cache_events:
        return None
    if config.publisher == "zmq" and not is_local(config.endpoint):
        log.warning(
            "KV events at %s: the stream has no keys, and holds the tokens of all tenants' prompts; let nothing "
            "but the router reach it",
            config.endpoint,
        )
    return SegmentEvents(store, block_size)


def is_local(endpoint: str) -> bool:
    """Whether a ZeroMQ endpoint is reached from this machine alone."""
    parts = urlsplit(endpoint)
    if parts.scheme in ("ipc", "inproc"):
        return True
    if parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _medium(tier: str) -> str:
    from vllm.distributed import kv_events

    return kv_events.MEDIUM_CPU if tier == "ram" else kv_events.MEDIUM_STORAGE


def _stored(kept: _Kept, block_size: int, medium: str) -> Any:
    from vllm.distributed.kv_events import BlockStored

    return BlockStored(
        block_hashes=[_external(each) for each in kept.hashes],
        parent_block_hash=None if kept.parent is None else _external(kept.parent),
        token_ids=list(kept.tokens),
        block_size=block_size,
        lora_id=None if kept.adapter is None else kept.adapter.adapter_id,
        medium=medium,
        lora_name=None if kept.adapter is None else kept.adapter.name,
    )


def _removed(kept: _Kept, medium: str) -> Any:
    from vllm.distributed.kv_events import BlockRemoved

    return BlockRemoved(block_hashes=[_external(each) for each in kept.hashes], medium=medium)


def _external(block_hash: Any) -> Any:
    from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash

    return maybe_convert_block_hash(block_hash)
