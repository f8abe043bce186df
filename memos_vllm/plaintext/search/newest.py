"""The newest statement before the older ones that it replaced, and statements by topic."""

from __future__ import annotations

from collections.abc import Set
from datetime import datetime

import numpy as np

from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.plaintext.search.bm25 import Scores
from memos_vllm.plaintext.search.owner_index import OwnerIndex
from memos_vllm.vault.views import Recalled

_Scored = tuple[float, str, dict[str, float]]  # score, item id, signals
_LEAST_STANDING = 1.0
_PROFILE = "profile"


class Newest:
    """Puts what replaced a statement in front of it, whether or not the search found it."""

    def __init__(self, at_us: int | None = None) -> None:
        """
        Args:
            at_us: moment of the search; None: now.
        """
        self._at_us = at_us
        self.over: dict[str, int] = {}
        """Ended items, and since when (microseconds)."""
        self.followed: dict[str, int] = {}
        """Items that hold, and the time of a later statement that may have replaced them."""
        self._newer: dict[str, str] = {}
        """Ended item → item with the newer statement."""

    def add(self, index: OwnerIndex, left_out: Set[str]) -> None:
        """Note what replaced what in an owner's memory.

        Args:
            left_out: items that the search must not return.
        """
        moment = now_us() if self._at_us is None else self._at_us
        sources = index.past.newer(moment)
        over, _ = index.past.at(moment)
        self.over |= over
        self.followed |= index.past.followed(moment)
        if not sources:
            return
        wanted = set(sources.values())
        items: dict[str, str] = {}
        for item in index.items:
            if item.id in over or item.id in left_out:
                continue
            # A claim says it alone; a turn may say more.
            for source in item.sources:
                if source in wanted:
                    items[source] = item.id
            if not item.sources and item.source in wanted:
                items.setdefault(item.source, item.id)
        for item_id, source in sources.items():
            if source in items:
                self._newer[item_id] = items[source]

    def over_since(self, item_id: str) -> datetime | None:
        """End of an item's validity."""
        return to_datetime(self.over[item_id]) if item_id in self.over else None

    def followed_since(self, item_id: str) -> datetime | None:
        """Time of a later statement that may have replaced an item that holds."""
        return to_datetime(self.followed[item_id]) if item_id in self.followed else None

    def before_older(self, scored: list[_Scored]) -> list[_Scored]:
        """The results, each older one directly behind its newer one at the latest.

        Args:
            scored: best first.
        """
        if not self._newer:
            return scored
        by_id = {entry[1]: entry for entry in scored}
        placed: set[str] = set()
        ordered: list[_Scored] = []
        for score, item_id, signals in scored:
            newer = self._newer.get(item_id)
            if newer is not None and newer not in placed:
                placed.add(newer)
                found = by_id.get(newer, (score, newer, {}))
                ordered.append((max(score, found[0]), newer, found[2]))
            if item_id not in placed:
                placed.add(item_id)
                ordered.append((score, item_id, signals))
        return ordered


def nearest_beliefs(
    index: OwnerIndex, standings: Scores, persona: str | None, count: int
) -> list[_Scored]:
    """Preferences and kept statements that hold and are the newest, by their standing, if that is at least one.

    Args:
        standings: (num_items,) of the items alone, from `fusion.standing`.
    """
    over, _ = index.past.at(now_us())
    over = over | index.past.followed(now_us())
    elsewhere = index.elsewhere(persona)
    found: list[_Scored] = []
    for position in np.argsort(-standings, kind="stable"):
        standing = float(standings[position])
        if len(found) >= 3 * count or standing < _LEAST_STANDING:
            break
        item = index.items[position]
        if item.is_belief and item.id not in over and item.id not in elsewhere:
            found.append((round(standing, 4), item.id, {"standing": round(standing, 4)}))
    return found


def is_profile_cube(recalled: Recalled) -> bool:
    """Whether the item stands in every prompt of the person already."""
    return (recalled.cube_name or "").partition("~")[0] == _PROFILE
