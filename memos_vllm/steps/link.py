"""`link`: add items that share a name with a found claim, one hop in the graph of names.

"Where does my sister work?" finds "ann's sister is called Maria"; "Maria started at Siemens" shares no
word with the question, and is added behind the search results.  Hops begin at claims only: a name that
a turn merely mentions leads to unrelated items more often than to related ones.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from memos_vllm.cube.entities import entity_key
from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.plaintext.claims.validity import holds
from memos_vllm.plaintext.search.search import Found
from memos_vllm.steps.state import Recall, Step

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

_FROM = 3
"""Best items that hops begin at; hops from worse ones add noise."""
_OVERFETCH = 3


def step(system: MemorySystem) -> Step[Recall]:
    """The step over the vault's graph of names. It raises VaultUnavailable."""
    most = system.config.retrieval.linked_items

    def link(recall: Recall) -> Recall:
        best = [found.recalled.item for found in recall.found[:_FROM]]
        start = [item for item in best if item.claim is not None]
        if not start or not most:
            return recall
        known = {found.recalled.item.id: found for found in (*recall.found, *recall.further)}
        present = {found.recalled.item.id for found in recall.found}
        besides = {entity_key(name) for name in (*recall.query.entities, recall.principal.person)}
        besides |= {entity_key(item.speaker) for item in start if item.speaker}
        links = system.entities.beside(
            recall.principal,
            [item.id for item in start if item.id is not None],
            besides,
            most * _OVERFETCH + len(present),
        )
        links = [each for each in links if each.item_id not in present]
        recalled = system.views.recall(recall.principal, [each.item_id for each in links])
        now = to_datetime(now_us())
        hops = []
        for each in links:
            item = recalled.get(each.item_id)
            if item is None or item.item.mark is not None:
                continue
            if not recall.query.about_past and not holds(item.item, now):
                continue
            hop = Found(item, 0.0, {"link": round(each.weight, 4)}, via=each.via)
            if (found := known.get(each.item_id)) is not None:
                hop = dataclasses.replace(hop, over=found.over, followed=found.followed)
            hops.append(hop)
        hops = hops[:most]
        reached = {hop.recalled.item.id for hop in hops}
        further = [each for each in recall.further if each.recalled.item.id not in reached]
        return dataclasses.replace(recall, found=[*recall.found, *hops], further=further)

    return link
