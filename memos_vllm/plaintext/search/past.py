"""MemOperator of a past moment: the same search over the versions that were current then.

Each owner's items of that moment make an index of their own, for the one request.  An item that is unchanged
has its vector in the index of now; the others are embedded for the request, the newest first and so many at
most, and the rest is found by words.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from memos_vllm.cube.filters import ItemFilter
from memos_vllm.cube.ids import SHARED, PersonId, to_us
from memos_vllm.cube.model import Item, ItemType
from memos_vllm.errors import EmbedderUnavailable, IndexUnavailable
from memos_vllm.governance.principal import Principal
from memos_vllm.plaintext.embed.embedder import Embedder
from memos_vllm.plaintext.embed.encoder import Vectors
from memos_vllm.plaintext.embed.model import background_by
from memos_vllm.plaintext.search.bm25 import Scores
from memos_vllm.plaintext.search.newest import Newest
from memos_vllm.plaintext.search.owner_index import OwnerIndex, Part
from memos_vllm.plaintext.search.search import Found, MemOperator, SearchResult
from memos_vllm.plaintext.tokens import tokenize
from memos_vllm.vault.items import Owner, PartKey
from memos_vllm.vault.past_memory import PastCube, PastMemory
from memos_vllm.vault.views import OwnerState, Recalled, VaultViews

log = logging.getLogger(__name__)
_OVERFETCH = 3
CUT = "as_of"
"""Part of a search that is not complete: the moment has more items than `lifecycle.as_of_items`."""


class PastOperator:
    def __init__(
        self,
        memory: PastMemory,
        operator: MemOperator,
        views: VaultViews,
        embedder: Embedder,
        most_embedded: int,
    ) -> None:
        """Search one past moment, for one request.

        Args:
            most_embedded: items without a vector that are embedded for it.
        """
        self.memory = memory
        self._operator, self._views, self._embedder = operator, views, embedder
        self._left = most_embedded
        self._indexes: dict[str, OwnerIndex] = {}
        self._rows: dict[str, Vectors] = {}
        self._recalled = {
            item.id: Recalled(
                item,
                cube.row.id,
                cube.name,
                cube.version.id,
                cube.row.person,
                cube.priority,
            )
            for cube in memory.cubes
            for item in cube.items
        }

    def owners(self, principal: Principal) -> list[OwnerState]:
        """Owners with memory at the moment."""
        counts: dict[str, int] = {}
        for cube in self.memory.cubes:
            counts[cube.row.person] = counts.get(cube.row.person, 0) + len(cube.items)
        now = {state.owner.person: state for state in self._views.owners(principal)}
        found = []
        for person in (principal.person, SHARED):
            if count := counts.pop(person, 0):
                owner = Owner(principal.tenant, PersonId(person))
                revision = now[person].revision if person in now else 0
                found.append(OwnerState(owner, revision, count))
        return found

    def search(
        self,
        principal: Principal,
        question: str,
        vector: Vectors | None,
        top_k: int,
        owners: Sequence[OwnerState] | None = None,
        about_past: bool = False,
        further: bool = False,
        depth: int | None = None,
        keep: AbstractSet[str] | None = None,
    ) -> SearchResult:
        """As `MemOperator.search`, of the moment; `owners` is from `owners`."""
        at_us = self.memory.at_us
        newest = Newest(at_us)
        scored: list[tuple[float, str, dict[str, float]]] = []
        degraded = CUT if self.memory.is_cut else None
        for state in self.owners(principal) if owners is None else owners:
            index = self._index(state.owner.person)
            channels = index.lexical(tokenize(question))
            if vector is not None:
                dense, problem = self._dense(state, index, vector)
                channels |= dense
                degraded = problem or degraded
            left_out = index.elsewhere(principal.persona)
            left_out |= frozenset() if about_past else index.past.at(at_us)[1]
            left_out |= index.no_evidence if keep is None else index.position.keys() - keep
            newest.add(index, left_out)
            scored += self._operator.ranked(
                question,
                index=index,
                channels=channels,
                count=depth or top_k * _OVERFETCH,
                left_out=left_out,
                background=background_by(vector),
            )
        scored = newest.before_older(sorted(scored, key=lambda entry: (-entry[0], entry[1])))
        found = [
            Found(
                self._recalled[ident],
                score=round(score, 4),
                signals=signals,
                over=newest.over_since(ident),
                followed=newest.followed_since(ident),
            )
            for score, ident, signals in scored
            if ident in self._recalled
        ]
        rest = found[top_k:] if further else []
        return SearchResult(found[:top_k], rest, degraded)

    def matching(self, where: ItemFilter) -> frozenset[str]:
        """Ids of the items that a filter admits."""
        return frozenset(
            item.id
            for cube in self.memory.cubes
            if _admits_cube(where, cube)
            for item in cube.items
            if item.id is not None and _admits(where, item)
        )

    # -- inside -----------------------------------------------------------------------------------

    def _index(self, person: str) -> OwnerIndex:
        if person not in self._indexes:
            parts = [
                Part.of(PartKey(cube.row.id, cube.version.id, cube.persona), cube.indexed())
                for cube in self.memory.cubes
                if cube.row.person == person and cube.items
            ]
            self._indexes[person] = OwnerIndex.build(0, parts)
        return self._indexes[person]

    def _dense(
        self, state: OwnerState, index: OwnerIndex, vector: Vectors
    ) -> tuple[dict[str, Scores], str | None]:
        """(dense channels of the items then, the part that did not answer)."""
        now, problem = self._now(state, vector)
        channels: dict[str, Scores] = {
            name: np.full(len(index.items), np.nan, dtype=np.float32)
            for name in {*now, "dense_turn"}
        }
        turn = channels["dense_turn"]
        for name, by_id in now.items():
            for position, item in enumerate(index.items):
                channels[name][position] = by_id.get(item.id, np.nan)
        missing = [position for position in range(len(turn)) if np.isnan(turn[position])]
        try:
            for position, row in self._embedded(index, missing):
                turn[position] = float(row @ np.asarray(vector))
        except EmbedderUnavailable as error:
            log.warning("changed items are searched by words alone: %s", error)
            problem = error.reason
        return channels, problem

    def _now(
        self, state: OwnerState, vector: Vectors
    ) -> tuple[Mapping[str, Mapping[str, float]], str | None]:
        """Cosines of the owner's items now, by channel and item."""
        if not state.revision:
            return {}, None
        current = self._operator.index_of(state)
        try:
            channels = self._operator.dense_channels(state.owner, current, vector)
        except IndexUnavailable as error:
            log.warning("vectors of a past moment left out: %s", error)
            return {}, error.reason
        ids = [item.id for item in current.items]
        return {
            name: {
                ident: float(score)
                for ident, score in zip(ids, scores, strict=True)
                if not np.isnan(score)
            }
            for name, scores in channels.items()
        }, None

    def _embedded(self, index: OwnerIndex, missing: Sequence[int]) -> list[tuple[int, Vectors]]:
        """Vectors of items without one, the newest first, as many as the request may embed."""
        newest = sorted(missing, key=lambda position: -(index.items[position].time_us or 0))
        wanted = [position for position in newest if index.items[position].id not in self._rows]
        wanted = wanted[: self._left]
        self._left -= len(wanted)
        if wanted:
            rows = self._embedder.embed([index.items[position].text for position in wanted])
            self._rows |= {
                index.items[position].id: row for position, row in zip(wanted, rows, strict=True)
            }
        return [
            (position, self._rows[index.items[position].id])
            for position in missing
            if index.items[position].id in self._rows
        ]


def _admits_cube(where: ItemFilter, cube: PastCube) -> bool:
    if where.tags is not None and not where.tags.admit(list(cube.tags)):
        return False
    if where.cube is None:
        return True
    names = {cube.row.id, cube.name}
    wanted = where.cube.any is None or bool(names & set(where.cube.any))
    return wanted and not names & set(where.cube.none)


def _admits(where: ItemFilter, item: Item) -> bool:
    words = ((where.session, item.session), (where.speaker, item.speaker))
    if not all(each is None or each.admits(value) for each, value in words):
        return False
    if where.source is not None and not where.source.admits(item.source):
        return False
    if where.types is not None and (
        (where.types.any is not None and item.type not in where.types.any)
        or item.type in where.types.none
    ):
        return False
    if item.mark is not None and not where.marked:
        return False
    if where.said is not None:
        begins, ends = where.said.microseconds()
        if item.time is None or not _within(to_us(item.time), begins, ends):
            return False
    return where.event is None or _happens(item, *where.event.microseconds())


def _within(moment: int, begins: int | None, ends: int | None) -> bool:
    return (begins is None or moment >= begins) and (ends is None or moment < ends)


def _happens(item: Item, after: int | None, before: int | None) -> bool:
    claim = item.claim
    if claim is None or (claim.begins is None and claim.ends is None):
        return False
    begins = to_us(claim.begins) if claim.begins is not None else None
    ends = to_us(claim.ends) if claim.ends is not None else None
    if ends is None and item.type is ItemType.EVENT and begins is not None:
        ends = begins + 1
    is_before_end = before is None or begins is None or begins < before
    return is_before_end and (after is None or ends is None or ends > after)
