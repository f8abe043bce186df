"""Compacts in a prompt (`memory.kv: "compact"`): places instead of the text of a cube."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from memos_vllm.activation.chain import Segment, own_digest
from memos_vllm.activation.compacts import Compact, place_tokens, text_key
from memos_vllm.activation.orders import Orders, Source
from memos_vllm.activation.store import SegmentStore
from memos_vllm.engine.gateway import EngineCall, TextPrompt
from memos_vllm.engine.kv.rope import rotation_problem
from memos_vllm.engine.kv.support import unsupported_reason
from memos_vllm.engine.kv_plan.builder import ChainBuilder
from memos_vllm.engine.kv_plan.planner import Chained, Prompt
from memos_vllm.engine.patches import required_loads
from memos_vllm.errors import Unavailable
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.scope import Scopes
from memos_vllm.learning.background import Spawn
from memos_vllm.scheduler.plan import KVPlan, KVSegment, PlanEntry

log = logging.getLogger(__name__)


def compact_problem(vllm_config: Any) -> str | None:
    """Why an engine serves no compacts; None: it does."""
    if not required_loads.is_possible():
        return "this vLLM cannot end a request whose KV is not loaded"
    return unsupported_reason(vllm_config, None) or rotation_problem(vllm_config)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Token ids of the served model."""

    size: int
    special: frozenset[int]

    def places(self, compact: Compact) -> list[int]:
        """Ids of a compact's places."""
        return place_tokens(compact.digest, compact.places, self.size, self.special)


@dataclasses.dataclass
class CompactPlanner:
    store: SegmentStore
    builder: ChainBuilder
    scopes: Scopes
    spawn: Spawn
    vocabulary: Vocabulary
    context: int
    """Of the model, tokens."""
    problem: str | None
    """Why this engine serves no compacts; None: it does."""
    salt: str = dataclasses.field(default_factory=lambda: secrets.token_hex(16))
    """Of all prompts with places: no client can send the same tokens under it."""
    building: set[str] = dataclasses.field(default_factory=set)
    """Keys of the segments that are being built."""

    async def plan(
        self, principal: Principal, prompt: Prompt, chained: Chained, call: EngineCall
    ) -> tuple[Chained, Prompt]:
        """Replace the text of cubes by their compacts, and order the KV; unchanged where there are none.

        Every segment in front of a compact has to be stored. Text that is not, in front of the first compact, is
        built for the next request; behind one, this request computes and stores it, and the compacts behind it
        are left for the next.
        """
        if self.problem is not None:
            chained.plan.problem = f"exact instead of compact: {self.problem}"
            return chained, prompt
        if chained.orders is None or not chained.ends:
            return chained, prompt
        draft, missing = await asyncio.to_thread(self._draft, principal, prompt, chained)
        if not draft.sources:
            return chained, prompt
        if missing:
            self._build(draft.tokens, missing)
            chained.plan.problem = "text instead of compact: the KV in front of it is not stored yet; it is being built"
            return chained, prompt
        orders = draft.orders(chained.orders)
        call.text = TextPrompt(
            list(prompt.tokens), chained.orders.to_params(), draft.tokens, self.context
        )
        call.private_salt = self.salt
        compacted = draft.chained(chained, orders)
        return compacted, dataclasses.replace(prompt, tokens=draft.tokens)

    def _draft(
        self, principal: Principal, prompt: Prompt, chained: Chained
    ) -> tuple[_Draft, list[Segment]]:
        def find(entry: PlanEntry, tokens: Sequence[int]) -> Compact | None:
            return self.find(principal, entry.cube, tokens)

        draft = _Draft(prompt.tokens, chained, self.vocabulary)
        draft.replace(find)
        missing = self._missing(draft)
        if missing is None:
            return draft, []
        if draft.sources[0].segment > missing:
            return draft, draft.segments[: missing + 1]  # of text alone
        shorter = _Draft(prompt.tokens, chained, self.vocabulary)
        shorter.replace(find, missing)
        return shorter, []

    def find(self, principal: Principal, cube: str, tokens: Sequence[int]) -> Compact | None:
        """The compact of a cube's text among those that this principal's prompts may hold."""
        digest = own_digest(tokens)
        for scope in self._scopes_of(principal):
            key = text_key(self.builder.namer.model, scope, cube, digest)
            found = self.store.compacts.read(cube, key)
            if found is not None and self._is_stored(found):
                return found
        return None

    def _scopes_of(self, principal: Principal) -> list[str]:
        """The person's scope and the tenant's, also under older secrets."""
        now = [self.scopes.person(principal), self.scopes.tenant(principal)]
        return [
            *now,
            *(
                older[scope]
                for older in self.scopes.older(principal, None)
                for scope in now
                if scope in older
            ),
        ]

    def _is_stored(self, compact: Compact) -> bool:
        name = compact.name
        return self.store.has_all(dataclasses.replace(name, rank=rank) for rank in compact.ranks)

    def _missing(self, draft: _Draft) -> int | None:
        """The first segment of text that is not stored and stands in front of a compact; None: there is none."""
        last = max((source.segment for source in draft.sources), default=-1)
        names = self.builder.namer.names(draft.tokens, draft.segments[: last + 1])
        compacts = {source.segment for source in draft.sources}
        for position, each in enumerate(names):
            if position not in compacts and not self.store.has_all(each):
                return position
        return None

    def _build(self, tokens: Sequence[int], segments: list[Segment]) -> None:
        """Build the KV of segments in the background, which are of text: places are never computed."""
        mark = own_digest(tokens[: segments[-1].end])
        if mark in self.building:
            return
        self.building.add(mark)

        async def work() -> None:
            try:
                await self.builder.build(tokens, segments)
            except Unavailable as error:
                log.warning("building KV in front of a compact failed: %s", error)
            finally:
                self.building.discard(mark)

        self.spawn(work())


class _Draft:
    """A prompt whose cubes are replaced by their compacts, one after the other."""

    def __init__(self, tokens: Sequence[int], chained: Chained, vocabulary: Vocabulary) -> None:
        assert chained.orders is not None
        self._given, self._vocabulary = tokens, vocabulary
        self._cubes = {end: entry for entry, end in chained.ends}
        self._whole = chained.orders.segments
        self.tokens: list[int] = []
        self.segments: list[Segment] = []
        self.sources: list[Source] = []
        self.compacts: dict[str, Compact] = {}
        """By cube."""
        self.ends: list[tuple[PlanEntry, int]] = []

    def replace(
        self,
        find: Callable[[PlanEntry, Sequence[int]], Compact | None],
        most: int | None = None,
    ) -> None:
        """Take the segments over, those of cubes with a compact as its places.

        Args:
            most: only the first so many segments may become places; None: all.
        """
        start = 0
        for position, segment in enumerate(self._whole):
            own = self._given[start : segment.end]
            entry = self._cubes.get(segment.end)
            is_wanted = entry is not None and (most is None or position < most)
            compact = find(entry, own) if entry is not None and is_wanted else None
            if entry is not None and compact is not None:
                name = compact.name
                own = self._vocabulary.places(compact)
                self.sources.append(Source(len(self.segments), name.scope, name.key, compact.start))
                self.compacts[entry.cube] = compact
            self.tokens += own
            self.segments.append(dataclasses.replace(segment, end=len(self.tokens)))
            if entry is not None:
                self.ends.append((entry, len(self.tokens)))
            start = segment.end
        self.tokens += self._given[start:]

    def orders(self, text: Orders) -> Orders:
        """Blocks in front of the compacts stay the request's own: another one must not share the salt."""
        return Orders(tuple(self.segments), save=text.save, compact=tuple(self.sources))

    def chained(self, text: Chained, orders: Orders) -> Chained:
        plan = KVPlan(
            segments=[
                KVSegment(end=mine.end, shared=theirs.shared, cubes=theirs.cubes)
                for mine, theirs in zip(self.segments, text.plan.segments, strict=True)
            ],
            problem=text.plan.problem,
        )
        return Chained(orders, self.ends, plan, compacts=self.compacts, text=text)
