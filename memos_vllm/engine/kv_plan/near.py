"""Approximate KV (`memory.kv: "near"`): KV of cubes from other contexts, rotated to new positions."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
from collections.abc import Container, Sequence

from memos_vllm.activation.backoff import ContextIndex
from memos_vllm.activation.chain import Segment
from memos_vllm.activation.orders import Orders, Source
from memos_vllm.cube.ids import CubeVersion
from memos_vllm.engine.kv_plan.builder import ChainBuilder
from memos_vllm.engine.kv_plan.planner import Chained, Prompt
from memos_vllm.engine.kv_plan.probe import Probe
from memos_vllm.errors import Unavailable
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.scope import Scopes
from memos_vllm.learning.background import Spawn
from memos_vllm.vault.views import VaultViews

log = logging.getLogger(__name__)


@dataclasses.dataclass
class NearPlanner:
    index: ContextIndex
    views: VaultViews
    scopes: Scopes
    builder: ChainBuilder
    spawn: Spawn
    heals: bool
    probe: Probe
    problem: str | None
    """The reason why the served model's keys cannot be rotated; None: they can."""
    healing: set[int] = dataclasses.field(default_factory=set)

    async def plan(self, principal: Principal, prompt: Prompt, chained: Chained) -> None:
        """Order approximate KV for the part of the head whose exact KV is not stored."""
        if self.problem is not None:
            chained.plan.problem = f"exact instead of near: {self.problem}"
        elif chained.orders is not None and chained.ends:
            await asyncio.to_thread(self._plan, principal, prompt, chained)

    def heal(self, prompt: Prompt, chained: Chained) -> None:
        """Build exactly what was served approximately, for the next request with this head."""
        if not chained.near or not self.heals:
            return
        end = chained.ends[-1][1]
        mark = hash((end, tuple(prompt.tokens[:end])))
        if mark not in self.healing:
            self.healing.add(mark)
            work = self._build(
                prompt.tokens, segments=_head(chained), sources=tuple(chained.near), mark=mark
            )
            self.spawn(work)

    def measure_others(
        self, principal: Principal, prompt: Prompt, segments: Sequence[Segment]
    ) -> None:
        """Measure the divergence of KV from other contexts, after this head was built exactly."""

        async def work() -> None:
            names = self.builder.namer.names(prompt.tokens, segments)
            own = {each[0].key for each in names}
            sources = await asyncio.to_thread(self._closest, principal, prompt, segments, 1, own)
            await self.probe.measure(prompt.tokens, segments, sources)

        if self.problem is None:
            self.spawn(work())

    def _plan(self, principal: Principal, prompt: Prompt, chained: Chained) -> None:
        segments = _head(chained)
        exact = self.index.reach(prompt.tokens, segments)
        if not 0 < exact < len(segments):
            return
        chained.near = self._closest(principal, prompt=prompt, segments=segments, first=exact)
        if chained.near:
            used = tuple(segments[: exact + len(chained.near)])
            chained.orders = Orders(used, save=False, near=tuple(chained.near))
            chained.salt = secrets.token_hex(16)

    def _closest(
        self,
        principal: Principal,
        prompt: Prompt,
        segments: Sequence[Segment],
        first: int,
        without: Container[str] = (),
    ) -> list[Source]:
        scopes = {
            self.scopes.tenant(principal, prompt.client_salt),
            self.scopes.person(principal, prompt.client_salt),
        }

        def may_read(cubes: Sequence[str]) -> bool:
            return self.views.may_use(principal, [CubeVersion.parse(cube).cube for cube in cubes])

        return self.index.closest(
            prompt.tokens,
            segments=segments,
            first=first,
            scopes=scopes,
            may_read=may_read,
            without=without,
        )

    async def _build(
        self,
        tokens: Sequence[int],
        segments: list[Segment],
        sources: Sequence[Source],
        mark: int,
    ) -> None:
        try:
            await self.builder.build(tokens, segments)
            await self.probe.measure(tokens, segments, sources)
        except Unavailable as error:
            log.warning("building exact KV after a near request failed: %s", error)
        finally:
            self.healing.discard(mark)


def _head(chained: Chained) -> list[Segment]:
    """The segments up to the last cube."""
    assert chained.orders is not None
    end = chained.ends[-1][1]
    return [segment for segment in chained.orders.segments if segment.end <= end]
