"""Prefetch of KV into faster tiers: when a person comes back, and after each of their turns."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

from cachetools import LRUCache

from memos_vllm.activation.chain import Segment
from memos_vllm.activation.names import Namer
from memos_vllm.activation.recent import RecentSegments
from memos_vllm.activation.tensors import TensorStore
from memos_vllm.activation.tombstones import short
from memos_vllm.engine.kv_plan.planner import Prompt
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.scope import Scopes
from memos_vllm.learning.background import Spawn

log = logging.getLogger(__name__)
_SESSION_SECONDS = 300.0
_PEOPLE = 65_536


@dataclasses.dataclass
class Prefetcher:
    store: TensorStore
    namer: Namer
    recent: RecentSegments
    scopes: Scopes
    spawn: Spawn
    last_request: LRUCache[str, float] = dataclasses.field(
        default_factory=lambda: LRUCache(maxsize=_PEOPLE)
    )
    """Monotonic seconds of each person's last request, by scope."""

    def arrived(self, principal: Principal) -> None:
        """At a person's first request after a pause, have the KV that they used last read from disk.

        The file system reads it while the request is being planned.
        """
        scope, moment = self._scope(principal), time.monotonic()
        before = self.last_request.get(scope)
        self.last_request[scope] = moment
        if before is None or moment - before > _SESSION_SECONDS:
            self.spawn(self._in_thread(self._read_ahead, scope))

    def answered(self, principal: Principal, prompt: Prompt, segments: tuple[Segment, ...]) -> None:
        """Note the segments that a turn used, and load those that are likely next into shared memory."""
        self.spawn(self._in_thread(self._note, self._scope(principal), prompt, segments))

    def _read_ahead(self, scope: str) -> None:
        for names in self.recent.of(scope)[:1]:
            for name in names:
                self.store.read_ahead(name)

    def _note(self, scope: str, prompt: Prompt, segments: tuple[Segment, ...]) -> None:
        chain = self.namer.names(prompt.tokens, segments)
        self.recent.note(scope, [str(name) for names in chain for name in names])
        for names in self.recent.of(scope):
            for name in names:
                if not self.store.warm(name):
                    return

    def _scope(self, principal: Principal) -> str:
        return short(self.scopes.person(principal))

    @staticmethod
    async def _in_thread(work: Callable[..., None], *arguments: Any) -> None:
        try:
            await asyncio.to_thread(work, *arguments)
        except OSError as error:
            log.info("prefetching KV failed: %s", error)
