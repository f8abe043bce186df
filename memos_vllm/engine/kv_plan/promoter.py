"""Promotion: heads of prompts that are rebuilt in the background when a cube in them changes.

A change of a cube's text wipes every chain with it, and the next request would compute it. A head is
worth rebuilding by its measured use: decayed number of requests, that is, tokens saved over tokens
computed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

from cachetools import LRUCache

from memos_vllm.errors import MemosError
from memos_vllm.governance.principal import Principal
from memos_vllm.learning.background import Spawn

log = logging.getLogger(__name__)
_REMEMBERED = 4096
_HALF_LIFE_SECONDS = 3600.0
Build = Callable[[Principal, list[str], str | None], Awaitable[Any]]


@dataclasses.dataclass(slots=True)
class Head:
    """A head of prompts with its use."""

    caller: Principal
    named: tuple[str, ...]
    """Refs of cubes that its requests name."""
    system: str | None
    cubes: frozenset[str]
    """Ids of all cubes in it."""
    uses: float = 0.0
    at: float = 0.0

    def used(self, moment: float) -> None:
        self.uses = self.worth(moment) + 1
        self.at = moment

    def worth(self, moment: float) -> float:
        """Uses decayed by age (half-life one hour): tokens saved over tokens computed for one build."""
        return self.uses * math.exp2(-(moment - self.at) / _HALF_LIFE_SECONDS)


class Promoter:
    def __init__(
        self,
        build: Build,
        least_uses: float,
        spawn: Spawn,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._build = build
        self._least = least_uses
        self._spawn = spawn
        self._loop = loop
        self._heads: LRUCache[tuple[Any, ...], Head] = LRUCache(maxsize=_REMEMBERED)

    def note(self, head: Head, is_shared: bool) -> None:
        """Count a request with this head.

        Args:
            is_shared: its KV serves other people of the tenant, too.
        """
        owner = "" if is_shared else head.caller.person
        key = (head.caller.tenant, owner, head.named, head.system, head.cubes)
        known = self._heads.setdefault(key, head)
        known.used(time.monotonic())

    def changed(self, cube: str) -> None:
        """Rebuild the heads with a cube whose text has changed. Thread-safe."""
        self._loop.call_soon_threadsafe(self._promote, cube)

    def _promote(self, cube: str) -> None:
        moment = time.monotonic()
        found = [head for head in self._heads.values() if cube in head.cubes]
        for head in sorted(found, key=lambda head: -head.worth(moment)):
            if head.worth(moment) < self._least:
                break
            self._spawn(self._rebuild(head))

    async def _rebuild(self, head: Head) -> None:
        try:
            await self._build(head.caller, list(head.named), head.system)
        except MemosError as error:  # deleted since, too long now, or no room on disk
            log.info("rebuilding a head failed: %s", error)
