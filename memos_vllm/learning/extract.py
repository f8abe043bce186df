"""A turn, read by a model in the background (`reader.mode: fine`), after it has become memory.

What the model finds is taken up like what rules find; where it fails, the turn stands as it was said.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from memos_vllm import metrics
from memos_vllm.cube.model import Item
from memos_vllm.errors import DamagedPayload, NotFound
from memos_vllm.learning.consolidate import Consolidator
from memos_vllm.plaintext.reader.by_model import Extraction, read_fine
from memos_vllm.prompt.quoting import Escape
from memos_vllm.writer.base import Writer

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

log = logging.getLogger(__name__)
_BEFORE = 2
"""Items of the conversation that are shown before the turn: what "yes" means."""


def subject_of(cube: str, request_id: str) -> str:
    """What a job is about: ids, never text."""
    return f"{cube}:{request_id}"


class Extractor:
    def __init__(self, system: MemorySystem, writer: Writer, escape: Escape) -> None:
        """Args: escape: breaks up the tokenizer's control strings in what is shown."""
        self._system, self._writer, self._escape = system, writer, escape
        self._consolidator = Consolidator(system)

    def read(self, subject: str) -> Extraction | None:
        """The job; doing it again changes nothing. None: the turn is gone."""
        cube, _, request_id = subject.partition(":")
        principal = self._system.knowledge.owner(cube)
        if principal is None:
            return None
        try:
            items = self._system.vault.get(principal, cube).items
        except (NotFound, DamagedPayload):
            return None
        turn = _turn(items, request_id)
        known = [each.item for each in self._system.knowledge.claims(principal)]
        found = read_fine(turn, principal.person, self._writer, self._escape, known)
        metrics.EXTRACTIONS.labels("failed" if found.failed else "read").inc()
        metrics.CLAIMS.labels("unsupported").inc(found.dropped)
        if found.failed:
            log.warning("a turn stays as it was said: %s", found.failed)
        own = [item for item in found.items if (item.source or "").startswith(f"{request_id}:")]
        if own:
            self._consolidator.take(principal, own, origin="chat:fine")
        return found


def _turn(items: list[Item], request_id: str) -> list[Item]:
    places = [i for i, item in enumerate(items) if (item.source or "").startswith(f"{request_id}:")]
    if not places:
        return []
    return items[max(0, places[0] - _BEFORE) : places[-1] + 1]
