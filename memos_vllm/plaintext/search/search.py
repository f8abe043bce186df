"""MemOperator's reading side: hybrid search over the items that a principal may read."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime

import numpy as np
import numpy.typing as npt

from memos_vllm.config.retrieval import RetrievalConfig
from memos_vllm.cube.ids import now_us
from memos_vllm.errors import IndexUnavailable
from memos_vllm.governance.permit import PROMPT, Permission
from memos_vllm.governance.principal import Principal
from memos_vllm.plaintext.embed.background import above
from memos_vllm.plaintext.embed.encoder import Vectors
from memos_vllm.plaintext.embed.model import Background, background_by
from memos_vllm.plaintext.search.asking import askings
from memos_vllm.plaintext.search.bm25 import Scores
from memos_vllm.plaintext.search.fusion import (
    Signals,
    fuse,
    signals_of,
    standing,
    without_names,
)
from memos_vllm.plaintext.search.newest import Newest, is_profile_cube, nearest_beliefs
from memos_vllm.plaintext.search.owner_index import LexicalCache, OwnerIndex
from memos_vllm.plaintext.search.part_files import PartFiles
from memos_vllm.plaintext.search.vector_cache import Unsettled, VectorCache
from memos_vllm.plaintext.search.vector_store import VIEWS, VectorIndex, View
from memos_vllm.plaintext.tokens import tokenize
from memos_vllm.vault.items import Owner
from memos_vllm.vault.views import OwnerState, Recalled, VaultViews

log = logging.getLogger(__name__)
_OVERFETCH = 3
_Scored = tuple[float, str, dict[str, float]]  # score, item id, signals


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A search result: the item, its fused score, and its raw scores."""

    recalled: Recalled
    score: float
    signals: Mapping[str, float]
    over: datetime | None = None
    """End of its validity, if it has ended."""
    followed: datetime | None = None
    """Time of a later statement that may have replaced it."""
    via: str | None = None
    """Name that it shares with a better result; None: search found it."""


@dataclasses.dataclass(frozen=True, slots=True)
class SearchResult:
    found: list[Found]
    further: list[Found]
    """Results behind `found`, for explanations."""
    degraded: str | None
    """Part that did not answer (`index`, `embedder`); None: the search is complete."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Query:
    """Arguments of one search."""

    principal: Principal
    question: str
    vector: Vectors | None
    about_past: bool
    keep: AbstractSet[str] | None
    depth: int
    permissions: Sequence[Permission]


@dataclasses.dataclass(slots=True)
class _Ranking:
    """Results of several owners."""

    scored: list[_Scored] = dataclasses.field(default_factory=list)
    newest: Newest = dataclasses.field(default_factory=Newest)
    degraded: str | None = None


class MemOperator:
    def __init__(
        self,
        config: RetrievalConfig,
        views: VaultViews,
        index: VectorIndex,
        unsettled: Unsettled = lambda owner: frozenset(),
        files: PartFiles | None = None,
    ) -> None:
        """
        Args:
            unsettled: cubes of an owner whose changes are not in Chroma yet.
            files: what was derived from items, kept across restarts.
        """
        self._config = config
        self._views = views
        self._index = index
        self._lexical = LexicalCache(views.owner_cubes, config.cached_owners, files)
        self._vectors = VectorCache(index, config.vector_cache_bytes, unsettled, files)

    def forget(self, is_gone: Callable[[str, str], bool]) -> None:
        """Drop what is cached of persons.

        Args:
            is_gone: of a tenant and a person.
        """
        self._lexical.forget(is_gone)
        self._vectors.forget(is_gone)

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
        among: Sequence[Permission] = PROMPT,
    ) -> SearchResult:
        """The best items of the person's own memory, the tenant's, and what others share, best first.

        Args:
            vector: (dim,) of the question; None: lexical search only.
            owners: from `VaultViews.owners` of the same principal, if the caller has them already.
            about_past: include claims that have ended; verbatim turns are always included.
            further: return the results behind the best, too.
            depth: results of each owner that are ranked; default: three times `top_k`.
            keep: ids of the only items to search, replies with a mark among them; None: all items
                that are evidence.
            among: permissions that the principal needs on each result's cube; `owners` are of the same.
        """
        depth = depth or top_k * _OVERFETCH
        query = _Query(principal, question, vector, about_past, keep, depth, among)
        ranking = _Ranking()
        for state in self._views.owners(principal, among) if owners is None else owners:
            self._rank_owner(state, query, ranking)
        scored = sorted(ranking.scored, key=lambda entry: (-entry[0], entry[1]))
        scored = ranking.newest.before_older(scored)
        count = len(scored) if further else top_k
        found = self._readable(principal, scored, ranking.newest, count, among)
        return SearchResult(found[:top_k], found[top_k:], ranking.degraded)

    def index_of(self, state: OwnerState) -> OwnerIndex:
        return self._lexical.get(state.owner, state.revision, state.only)

    def _rank_owner(self, state: OwnerState, query: _Query, ranking: _Ranking) -> None:
        """Add the best items of one owner."""
        vector = query.vector
        index = self.index_of(state)
        channels = index.lexical(tokenize(query.question))
        if vector is not None and ranking.degraded is None:
            ranking.degraded = self._add_dense(
                channels, owner=state.owner, index=index, vector=vector
            )
        left_out = _left_out(index, query)
        ranking.newest.add(index, left_out)
        ranking.scored.extend(
            self.ranked(
                query.question,
                index=index,
                channels=channels,
                count=query.depth,
                left_out=left_out,
                background=background_by(vector),
            )
        )

    def _add_dense(
        self, channels: dict[str, Scores], owner: Owner, index: OwnerIndex, vector: Vectors
    ) -> str | None:
        """Add the dense channels; without Chroma they are missing, and the reason is returned."""
        try:
            channels.update(self.dense_channels(owner, index, vector))
        except IndexUnavailable as error:
            log.warning("dense search left out: %s", error)
            return error.reason
        return None

    def _readable(
        self,
        principal: Principal,
        scored: Sequence[_Scored],
        newest: Newest,
        count: int,
        permissions: Sequence[Permission] = PROMPT,
    ) -> list[Found]:
        """The best `count` results that the principal may read."""
        ranked = [item_id for _, item_id, _ in scored]
        recalled = self._recall(principal, ranked, count, permissions)
        return [
            Found(
                recalled[item_id],
                score=round(score, 4),
                signals=signals,
                over=newest.over_since(item_id),
                followed=newest.followed_since(item_id),
            )
            for score, item_id, signals in scored
            if item_id in recalled
        ]

    def _recall(
        self,
        principal: Principal,
        ranked: Sequence[str],
        count: int,
        permissions: Sequence[Permission],
    ) -> dict[str, Recalled]:
        """The first `count` of the ranked items that the principal may read, or fewer."""
        recalled: dict[str, Recalled] = {}
        while ranked and len(recalled) < count:
            asked = count - len(recalled)
            recalled |= self._views.recall(principal, ranked[:asked], permissions)
            ranked = ranked[asked:]
        return recalled

    def with_beliefs(
        self,
        principal: Principal,
        found: Sequence[Found],
        vector: Vectors,
        owners: Sequence[OwnerState] | None = None,
    ) -> list[Found]:
        """Search results with the person's statements on the topic that stand in no prompt by themselves.

        The profile stands at the head of every prompt already; what it has no room for is chosen here,
        behind the best results, where its place costs no KV.

        Args:
            vector: (dim,) of the question.
        """
        count = self._config.beliefs
        known = {each.recalled.item.id for each in found}
        extra = [
            each
            for each in (self._beliefs(principal, vector, count, owners) if count else [])
            if each.recalled.item.id not in known and not is_profile_cube(each.recalled)
        ]
        half = (len(found) + 1) // 2
        return [*found[:half], *extra, *found[half:]]

    def _beliefs(
        self,
        principal: Principal,
        vector: Vectors,
        count: int,
        owners: Sequence[OwnerState] | None = None,
    ) -> list[Found]:
        """The person's preferences and kept statements nearest to a question, best first.

        Args:
            vector: (dim,) of the question.
        Raises:
            VaultUnavailable
        """
        scored: list[_Scored] = []
        for state in self._views.owners(principal) if owners is None else owners:
            if state.owner.person != principal.person:
                continue
            index = self.index_of(state)
            if not any(item.is_belief for item in index.items):
                continue
            channels: dict[str, Scores] = {}
            if self._add_dense(channels, owner=state.owner, index=index, vector=vector) is None:
                standings = standing(channels["dense_turn"], background_by(vector))
                scored += nearest_beliefs(index, standings, principal.persona, count)
        scored.sort(key=lambda entry: (-entry[0], entry[1]))
        return self._readable(principal, scored, Newest(), count)

    def focus(self, owners: Sequence[OwnerState], question: str) -> str:
        """Remove speakers' names from a question before it is embedded.

        Nearly every item of a conversation names its speaker, so a name in the question pulls the
        vector towards all of them (benchmarks/locomo_retrieval: dense alone 45.4 → 57.9 recall@10).
        The speaker boost still uses the names.
        """
        speakers = {speaker for state in owners for speaker in self.index_of(state).speakers}
        return without_names(question, speakers)

    def signals(
        self, state: OwnerState, question: str, vector: Vectors
    ) -> tuple[list[str], Signals]:
        """An owner's item ids and their signals, to fit weights on.

        Raises:
            IndexUnavailable: Chroma does not answer.
        """
        index = self.index_of(state)
        channels = index.lexical(tokenize(question))
        channels |= self.dense_channels(state.owner, index, vector)
        return [item.id for item in index.items], signals_of(
            question, index, channels, background_by(vector)
        )

    def refresh(self, principal: Principal) -> None:
        """Update the indexes of a principal's owners, outside of requests."""
        for state in self._views.owners(principal):
            index = self.index_of(state)
            try:
                self._vectors.refresh(state.owner, index)
            except IndexUnavailable as error:
                log.warning("vectors are not preloaded: %s", error)

    def dense_channels(self, owner: Owner, index: OwnerIndex, vector: Vectors) -> dict[str, Scores]:
        """Cosines of an owner's items now, by channel. Raises IndexUnavailable."""
        if self._vectors.fits(index, len(vector)):
            found = self._vectors.scores(owner, index, vector)
            return {f"dense_{view}": scores for view, scores in found.items()}
        channels: dict[str, Scores] = {}
        count = min(len(index.items), self._config.candidates)
        for view in VIEWS:
            scores = np.full(len(index.items), np.nan, dtype=np.float32)
            for item_id, cosine in self._nearest(owner, index, view, vector, count):
                scores[index.position[item_id]] = cosine
            channels[f"dense_{view}"] = scores
        return channels

    def _nearest(
        self, owner: Owner, index: OwnerIndex, view: View, vector: Vectors, count: int
    ) -> list[tuple[str, float]]:
        """The nearest items of an index, from Chroma, which has all of the owner's."""
        cubes = [key.cube_id for key in index.only] if index.only is not None else None
        asked = count
        while count:
            found = self._index.query(owner, view=view, vector=vector, count=asked, cubes=cubes)
            inside = [each for each in found if each[0] in index.position]
            if len(inside) >= count or len(found) < asked:
                return inside[:count]
            asked *= 2  # others crowd them out: cubes that are not open, or older versions
        return []

    def ranked(
        self,
        question: str,
        index: OwnerIndex,
        channels: dict[str, Scores],
        count: int,
        left_out: AbstractSet[str] = frozenset(),
        background: Background | None = None,
    ) -> list[_Scored]:
        """The best items of an index: (score, item id, signals), best first."""
        if not index.items:
            return []
        eligible = self._relevant(channels, background)
        eligible[[index.position[each] for each in left_out if each in index.position]] = False
        counted = eligible & ~askings(question, index, channels["lexical_turn"])
        signals_now = signals_of(question, index, channels, background)
        fused = fuse(signals_now, self._config.weights, counted)
        ranked: list[_Scored] = []
        for position in np.argsort(-fused, kind="stable"):
            if not eligible[position]:
                continue
            signals = {
                name: round(float(scores[position]), 4)
                for name, scores in channels.items()
                if not np.isnan(scores[position])
            }
            ranked.append((float(fused[position]), index.items[position].id, signals))
            if len(ranked) >= count:
                break
        return ranked

    def _relevant(
        self, channels: dict[str, Scores], background: Background | None
    ) -> npt.NDArray[np.bool_]:
        """Whether an item shares a token with the question, or its cosine is at least `min_cosine`.

        Args:
            background: cosines of unrelated texts; `min_cosine` is a share of the way from there to 1.
        """
        relevant: npt.NDArray[np.bool_] = channels["lexical_turn"] > 0
        for view in VIEWS:
            dense = channels.get(f"dense_{view}")
            if dense is not None:
                usual = background.mean if background is not None else 0.0
                over = above(np.nan_to_num(dense, nan=-1.0), usual)
                relevant = relevant | (over >= self._config.min_cosine)
        return relevant


def _left_out(index: OwnerIndex, query: _Query) -> AbstractSet[str]:
    """Ids of the items that a search must not return."""
    left_out = index.elsewhere(query.principal.persona)
    left_out |= frozenset() if query.about_past else index.past.at(now_us())[1]
    keep = query.keep
    return left_out | (index.no_evidence if keep is None else index.position.keys() - keep)
