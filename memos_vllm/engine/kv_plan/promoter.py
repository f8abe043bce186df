"""Which heads of prompts are worth building before somebody asks again.

What requests compute is kept anyway; but when a cube's text changes, every chain with it is gone, and
the next person would wait for it.  Heads that were used enough are built again in the background.
Worth is measured use: prefilled tokens that a head would have saved in the last while, against the
tokens that building it costs.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from memos_vllm.errors import MemosError
from memos_vllm.governance.principal import Principal

log = logging.getLogger(__name__)
_REMEMBERED = 4096
_HALF_LIFE_SECONDS = 3600.0
Build = Callable[[Principal, list[str], str | None], Awaitable[Any]]


@dataclasses.dataclass(slots=True)
class Head:
    caller: Principal
    named: tuple[str, ...]
    """Cubes that requests name, as they name them."""
    system: str | None
    cubes: frozenset[str]
    """Ids of all cubes in it."""
    uses: float = 0.0
    at: float = 0.0

    def used(self, moment: float) -> None:
        self.uses = self.worth(moment) + 1
        self.at = moment

    def worth(self, moment: float) -> float:
        """Uses, older ones counting less: tokens saved over tokens computed, if it is built once."""
        return self.uses * math.exp2(-(moment - self.at) / _HALF_LIFE_SECONDS)


class Promoter:
    def __init__(
        self,
        build: Build,
        least_uses: float,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._build = build
        self._least = least_uses
        self._spawn = spawn
        self._loop = loop
        self._heads: OrderedDict[tuple[Any, ...], Head] = OrderedDict()

    def note(self, head: Head, is_shared: bool) -> None:
        """A request had this head. Args: is_shared: its KV serves the tenant's other people too."""
        owner = "" if is_shared else head.caller.person
        key = (head.caller.tenant, owner, head.named, head.system, head.cubes)
        known = self._heads.setdefault(key, head)
        known.used(time.monotonic())
        self._heads.move_to_end(key)
        if len(self._heads) > _REMEMBERED:
            self._heads.popitem(last=False)

    def changed(self, cube: str) -> None:
        """A cube's text changed, and its chains are gone. From any thread."""
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
        except MemosError as error:  # deleted since, too long now, no disk
            log.info("a head that was used is not built again: %s", error)
