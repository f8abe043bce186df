"""Validity of items in time: claims that have ended, and turns whose claims have all ended."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import datetime

from memos_vllm.cube.model import Item
from memos_vllm.vault.items import IndexedItem


class Past:
    """Ended items of an owner, computed again only when another claim has ended."""

    def __init__(self, items: Sequence[IndexedItem]) -> None:
        self._items = items
        times = [moment for item in items for moment in (item.ends_us, item.followed_us)]
        self._ends = sorted(moment for moment in times if moment is not None)
        self._count = -1
        self._over: dict[str, int] = {}
        self._claims: frozenset[str] = frozenset()
        self._newer: dict[str, str] = {}
        self._followed: dict[str, int] = {}

    def at(self, at_us: int) -> tuple[dict[str, int], frozenset[str]]:
        """Ended items with the end of their validity (microseconds), and the claims among them."""
        count = bisect.bisect_right(self._ends, at_us)
        if count != self._count:
            self._over = superseded(self._items, at_us)
            self._claims = frozenset(
                item.id for item in self._items if item.sources and item.id in self._over
            )
            self._followed = followed(self._items, self._over, at_us)
            self._newer = newer_sources(self._items, self._over | self._followed)
            self._count = count
        return self._over, self._claims

    def followed(self, at_us: int) -> dict[str, int]:
        """Items that hold and may have been replaced, with the time of the later statement."""
        self.at(at_us)
        return self._followed

    def newer(self, at_us: int) -> dict[str, str]:
        """Ended and followed items with the message that states the newer: (item id, source)."""
        self.at(at_us)
        return self._newer


def superseded(items: Iterable[IndexedItem], at_us: int) -> dict[str, int]:
    """Ended items, and since when (microseconds).

    Claims that have ended; turns whose claims have all ended; turns with a name that has ended and its
    bearer, in any wording ("Miso is what we named the cat"); and the replies to these turns, which may
    repeat them.
    """
    ended: dict[str, int] = {}
    open_sources: set[str] = set()
    over: dict[str, int] = {}
    all_items = list(items)
    for item in all_items:
        if item.ends_us is not None and item.ends_us <= at_us:
            over[item.id] = item.ends_us
            for source in item.sources:
                ended[source] = max(ended.get(source, 0), item.ends_us)
        elif item.followed_us is None or item.followed_us > at_us:
            open_sources.update(item.sources)
    for item in all_items:
        if not item.sources and item.source in ended and item.source not in open_sources:
            over[item.id] = ended[item.source]
    _over_by_name(all_items, over, open_sources)
    said = {
        item.source: over[item.id] for item in all_items if not item.sources and item.id in over
    }
    for item in all_items:
        asked = _question_of(item)
        if asked in said and item.id not in over:
            over[item.id] = said[asked]
    return over


def followed(items: Iterable[IndexedItem], over: Mapping[str, int], at_us: int) -> dict[str, int]:
    """Claims with a later statement on the same thing, their turns, and the replies to these."""
    by_source: dict[str, int] = {}
    found: dict[str, int] = {}
    all_items = [item for item in items if item.id not in over]
    for item in all_items:
        if item.followed_us is not None and item.followed_us <= at_us:
            found[item.id] = item.followed_us
            by_source.update((source, item.followed_us) for source in item.sources)
    for item in all_items:
        source = _question_of(item) or item.source
        if not item.sources and source in by_source:
            found[item.id] = by_source[source]
    return found


def newer_sources(items: Iterable[IndexedItem], over: Mapping[str, int]) -> dict[str, str]:
    """For each ended or followed item the message that states the newer; an ended turn has that of its claims.

    Where the newer was replaced in turn, the newest.
    """
    by_source: dict[str, str] = {}
    found: dict[str, str] = {}
    all_items = [item for item in items if item.id in over]
    for item in all_items:
        if item.newer is not None:
            found[item.id] = item.newer
            by_source.update((source, item.newer) for source in item.sources)
    for item in all_items:
        if item.id not in found:
            source = _question_of(item) or item.source
            if source in by_source:
                found[item.id] = by_source[source]
    return {item_id: _newest(source, by_source) for item_id, source in found.items()}


def _newest(source: str, by_source: Mapping[str, str]) -> str:
    seen = {source}
    while (following := by_source.get(source)) is not None and following not in seen:
        source = following
        seen.add(source)
    return source


def _question_of(item: IndexedItem) -> str | None:
    """Source of the words that a reply answers; None: the item is no reply."""
    request, _, part = (item.source or "").rpartition(":")
    return f"{request}:user" if part == "reply" else None


def _over_by_name(
    items: Sequence[IndexedItem], over: dict[str, int], open_sources: Set[str]
) -> None:
    """Add turns with an ended name, said before its end: later ones are about the past already."""
    ended: dict[tuple[str, str], int] = {}
    for item in items:
        if item.names and item.id in over:
            ended[item.names] = over[item.id]
    for item in items:
        if item.names and item.id not in over:
            ended.pop(item.names, None)  # the name is valid again
    for names, since in ended.items():
        words = [re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE) for word in names]
        for item in items:
            if item.sources or item.id in over or item.source in open_sources:
                continue
            if item.time_us is None or item.time_us >= since:
                continue
            if all(word.search(item.text) for word in words):
                over[item.id] = since


def holds(item: Item, at: datetime) -> bool:
    """Whether an item is valid at a time; one without a claim always is."""
    claim = item.claim
    return claim is None or claim.ends is None or claim.ends > at
