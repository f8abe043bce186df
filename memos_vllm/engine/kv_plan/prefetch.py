"""KV on its way up before it is asked for: when somebody comes back, and after each of their turns."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from memos_vllm.activation.chain import Segment
from memos_vllm.activation.names import Namer
from memos_vllm.activation.recent import RecentSegments
from memos_vllm.activation.tensors import TensorStore
from memos_vllm.activation.tombstones import short
from memos_vllm.engine.kv_plan.planner import Prompt
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.scope import Scopes

log = logging.getLogger(__name__)
_SESSION_SECONDS = 300.0
_SEEN = 65_536


@dataclasses.dataclass
class Prefetcher:
    keeper: TensorStore
    namer: Namer
    recent: RecentSegments
    scopes: Scopes
    spawn: Callable[[Coroutine[Any, Any, None]], None]
    seen: OrderedDict[str, float] = dataclasses.field(default_factory=OrderedDict)
    """When each person's last request came, monotonic seconds."""

    def arrived(self, principal: Principal) -> None:
        """A request came in. The first one of a session: have what they used last read from disk.

        The file system reads it while the request is still being planned.
        """
        scope, moment = self._scope(principal), time.monotonic()
        before = self.seen.get(scope)
        self.seen[scope] = moment
        self.seen.move_to_end(scope)
        if len(self.seen) > _SEEN:
            self.seen.popitem(last=False)
        if before is None or moment - before > _SESSION_SECONDS:
            self.spawn(self._in_thread(self._read_ahead, scope))

    def answered(self, principal: Principal, prompt: Prompt, segments: tuple[Segment, ...]) -> None:
        """A turn is under way: note what it used, and bring what is likely next into memory."""
        self.spawn(self._in_thread(self._note, self._scope(principal), prompt, segments))

    def _read_ahead(self, scope: str) -> None:
        for names in self.recent.of(scope)[:1]:
            for name in names:
                self.keeper.read_ahead(name)

    def _note(self, scope: str, prompt: Prompt, segments: tuple[Segment, ...]) -> None:
        chain = self.namer.names(prompt.tokens, segments)
        self.recent.note(scope, [str(name) for names in chain for name in names])
        for names in self.recent.of(scope):
            for name in names:
                if not self.keeper.warm(name):
                    return

    def _scope(self, principal: Principal) -> str:
        return short(self.scopes.person(principal))

    @staticmethod
    async def _in_thread(work: Callable[..., None], *arguments: Any) -> None:
        try:
            await asyncio.to_thread(work, *arguments)
        except OSError as error:
            log.info("KV is not fetched ahead: %s", error)
