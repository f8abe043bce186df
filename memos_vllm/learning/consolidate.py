"""Consolidation of claims into a person's cubes (the writing side of MemOperator).

    profile       at the head of every prompt: constraints, standing instructions, identity, preferences;
                  a small block that seldom changes, so that its KV is reused. When it is full, the lowest
                  standing gives way (`plaintext.claims.standing`) and is found by search
    facts#1, …    all other claims, ended ones included; found by search

Consolidating the same claims twice changes nothing (`plaintext.claims`), so an interrupted run is
repeated.  Concurrent writers of one person conflict at the cubes' versions, and the later one reads
again.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from memos_vllm import metrics
from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.cube.model import (
    CubePatch,
    ExplicitPayload,
    Item,
    MemCube,
    NewCube,
    NewMeta,
    Placement,
    Provenance,
    Standing,
    State,
)
from memos_vllm.errors import DamagedPayload, NotFound
from memos_vllm.governance.principal import Principal, persona_tag
from memos_vllm.learning.optimistic import retry_conflicts
from memos_vllm.learning.series import newest_part
from memos_vllm.plaintext.claims.fold import Folded, Retired, ends_all, fold, retire
from memos_vllm.plaintext.claims.sameness import says_the_same
from memos_vllm.plaintext.claims.standing import choose, standing_of
from memos_vllm.plaintext.claims.validity import holds
from memos_vllm.vault.items import claim_key

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

log = logging.getLogger(__name__)
PROFILE, FACTS = "profile", "facts"
PROFILE_ITEMS = 48
"""Limit, as every prompt pays for each item; further items become facts."""
FACTS_ITEMS = 256
PROFILE_SHARE = 0.6
"""Of `prompt.budget_tokens`: a block that does not fit whole is left out of the prompt."""
_SAMENESS_CANDIDATES = 8
"""Search results that are compared with a claim for sameness."""


@dataclasses.dataclass
class _Part:
    """A cube in its current version, and its new items."""

    cube: MemCube
    items: list[Item]
    changed: bool = False


class Consolidator:
    def __init__(self, system: MemorySystem) -> None:
        self._system = system

    def take(
        self,
        principal: Principal,
        fresh: Sequence[Item],
        origin: str = "claims",
        retired: Sequence[Retired] = (),
    ) -> Folded:
        """Consolidate claims into the person's cubes.

        Args:
            retired: statements that newer ones have replaced.

        Returns:
            Claims that were added, strengthened and ended.
        Raises:
            Conflict: other writers changed the cubes in each attempt.
            Forbidden, VaultUnavailable
        """
        fresh = [self._as_known(principal, item) for item in fresh]
        return retry_conflicts(
            lambda: self._take(principal, fresh, origin, retired),
            "other writers change the person's memory all the time: try again",
        )

    def _take(
        self, principal: Principal, fresh: Sequence[Item], origin: str, retired: Sequence[Retired]
    ) -> Folded:
        parts = self._parts(principal, [*fresh, *(each.item for each in retired)])
        known = [item for part in parts.values() for item in part.items]
        folded = fold(known, fresh)
        retire(folded, retired)
        for kind in ("added", "strengthened", "ended", "followed"):
            metrics.CLAIMS.labels(kind).inc(len(getattr(folded, kind)))
        if not folded.changed:
            return folded
        left = list(folded.items)
        for part in parts.values():
            count = len(part.items)
            now, left = left[:count], left[count:]
            part.changed = now != part.items
            part.items = now
        self._store(principal, parts, left, origin)
        return folded

    def _as_known(self, principal: Principal, item: Item) -> Item:
        """Reword a claim like the known one that says the same, so that it strengthens that one.

        A claim with an attribute stays unchanged: its attribute identifies it.
        """
        claim = item.claim
        if claim is None or claim.attribute is not None:
            return item
        for found in self._system.search(principal, item.text, None, _SAMENESS_CANDIDATES).found:
            recalled = found.recalled
            if recalled.person == principal.person and says_the_same(recalled.item, item):
                return item.model_copy(update={"text": recalled.item.text})
        return item

    def _parts(self, principal: Principal, fresh: Sequence[Item]) -> dict[str, _Part]:
        """The person's profile, and their cubes with claims of the same keys as the new ones."""
        keys = [key for item in fresh if (key := claim_key(item)) is not None]
        whole = [item.claim for item in fresh if item.claim and item.claim.value is None]
        if any(claim.attribute for claim in whole):
            keys += [
                key
                for each in self._system.knowledge.claims(principal)
                if (old := each.item.claim) is not None
                and any(ends_all(claim, old.attribute) for claim in whole)
                and (key := claim_key(each.item)) is not None
            ]
        ids = list(self._system.knowledge.holding(principal, keys))
        cubes = [cube for ref in ids if (cube := self._readable(principal, ref)) is not None]
        profile = self._named(principal, _own(PROFILE, principal))
        if profile is not None and profile.meta.id not in ids:
            cubes.append(profile)
        return {cube.meta.id: _Part(cube, cube.items) for cube in cubes if is_consolidated(cube)}

    def _store(
        self, principal: Principal, parts: dict[str, _Part], added: list[Item], origin: str
    ) -> None:
        name = _own(PROFILE, principal)
        profile = next((p for p in parts.values() if p.cube.meta.name == name), None)
        is_free = profile is not None or not self._system.knowledge.is_named(principal, name)
        ended = []
        moment = to_datetime(now_us())
        if profile is not None:
            ended = [item for item in profile.items if not _keeps_place(item, moment)]
            if ended:
                profile.items = [item for item in profile.items if item not in ended]
                profile.changed = True
        own = [item for item in added if is_free and is_profile(item) and _is_current(item, moment)]
        before = profile.items if profile is not None else []
        kept, crowded_out = self._chosen(before, own)
        own = [item for item in own if item in kept]
        if profile is not None and (moved_out := [i for i in crowded_out if i in before]):
            ended += moved_out
            profile.items = [item for item in profile.items if item not in moved_out]
            profile.changed = True
        # A run that was killed between the facts and the profile has moved them already.
        moved = {(i.text, i.source) for p in parts.values() if p is not profile for i in p.items}
        rest = [item for item in ended if (item.text, item.source) not in moved]
        rest += [item for item in added if item not in own]
        touched: list[str | None] = []
        if rest:
            touched.append(self._append(principal, parts, rest, origin))
        touched += [self._update(principal, p, origin) for p in parts.values() if p is not profile]
        if own and profile is None:
            touched.append(self._create(principal, PROFILE, name, own, origin))
        elif profile is not None:
            profile.items = _newest_first([*profile.items, *own])
            profile.changed = profile.changed or bool(own)
            touched.append(self._update(principal, profile, origin))
        log.debug("claims of %s are in %s", principal.person, [each for each in touched if each])

    def _chosen(self, before: list[Item], own: list[Item]) -> tuple[list[Item], list[Item]]:
        """Items of the profile, and those that it has no room for."""
        tokens = int(PROFILE_SHARE * self._system.config.prompt.budget_tokens)
        return choose([*before, *own], PROFILE_ITEMS, tokens)

    def _update(self, principal: Principal, part: _Part, origin: str) -> str | None:
        if not part.changed:
            return None
        meta = part.cube.meta
        patch = CubePatch(
            payload=ExplicitPayload(content=part.items), provenance=Provenance(origin=origin)
        )
        self._system.update(principal, meta.id, patch, if_match=meta.version)
        return meta.id

    def _append(
        self, principal: Principal, parts: dict[str, _Part], items: list[Item], origin: str
    ) -> str:
        """Append to the newest part of the facts, or to a new part if that is full; returns its id.

        One of `parts` gets them with its own changes, in one version.
        """
        kind = _own(FACTS, principal)
        name, cube = newest_part(self._system, principal, kind, FACTS)
        if cube is not None and len(cube.items) + len(items) <= FACTS_ITEMS:
            if (part := parts.get(cube.meta.id)) is not None:
                part.items, part.changed = [*part.items, *items], True
                return cube.meta.id
            patch = CubePatch(append=items, provenance=Provenance(origin=origin))
            self._system.update(principal, cube.meta.id, patch, if_match=cube.meta.version)
            return cube.meta.id
        return self._create(principal, FACTS, name, items, origin)

    def _create(
        self, principal: Principal, kind: str, name: str, items: list[Item], origin: str
    ) -> str:
        meta = NewMeta(
            name=name,
            tags=[kind, *persona_tag(principal.persona)],
            placement=Placement.STABLE if kind == PROFILE else Placement.RETRIEVED,
            provenance=Provenance(origin=origin),
        )
        new = NewCube(meta=meta, payload=ExplicitPayload(content=items))
        return self._system.create(principal, [new])[0].meta.id

    def _named(self, principal: Principal, name: str) -> MemCube | None:
        cube = self._readable(principal, name)
        return cube if cube is not None and cube.meta.person == principal.person else None

    def _readable(self, principal: Principal, ref: str) -> MemCube | None:
        """A cube; None: it does not exist, or its payload is damaged and stays as it is."""
        try:
            return self._system.vault.get(principal, ref)
        except NotFound:
            return None
        except DamagedPayload as error:
            log.error("a damaged cube is not changed: %s", error)
            return None


def is_profile(item: Item) -> bool:
    """Whether an item belongs into every prompt: a constraint, an instruction, identity, a preference."""
    return standing_of(item) is not None


def _is_current(item: Item, at: datetime) -> bool:
    """Whether an item holds, and no later statement may have replaced it."""
    return holds(item, at) and (item.claim is None or item.claim.followed_by is None)


def _keeps_place(item: Item, at: datetime) -> bool:
    """Whether an item of the profile stays there: a constraint until it is certain that it has ended."""
    is_constraint = standing_of(item) is Standing.CONSTRAINT
    return _is_current(item, at) or (is_constraint and holds(item, at))


def _newest_first(items: list[Item]) -> list[Item]:
    """Items in order, those that a later statement may have replaced behind all others."""
    return sorted(items, key=lambda i: i.claim is not None and i.claim.followed_by is not None)


def is_consolidated(cube: MemCube) -> bool:
    """Whether consolidation made the cube and may change it: not made by hand, not frozen."""
    kind = (cube.meta.name or "").partition("#")[0].partition("~")[0]
    return (
        cube.meta.state is State.ACTIVATED and kind in (PROFILE, FACTS) and kind in cube.meta.tags
    )


def _own(kind: str, principal: Principal) -> str:
    """Name of the person's cube of a kind, in their persona."""
    return f"{kind}~{principal.persona}" if principal.persona else kind
