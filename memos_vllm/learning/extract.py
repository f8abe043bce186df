"""Extraction of claims by a model, in the background (`reader.mode: fine`), after a turn became memory.

Its claims are consolidated like those of the rules; where the model fails, the turn itself remains.
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
"""Items of the conversation shown before the turn as context: to what "yes" refers."""


def subject_of(cube: str, request_id: str) -> str:
    """Subject of a `read` job: ids, never text."""
    return f"{cube}:{request_id}"


class Extractor:
    def __init__(self, system: MemorySystem, writer: Writer, escape: Escape) -> None:
        """Extractor by a writer.

        Args:
            escape: breaks up the tokenizer's control strings in shown text.
        """
        self._system, self._writer, self._escape = system, writer, escape
        self._consolidator = Consolidator(system)

    def read(self, subject: str) -> Extraction | None:
        """Extract the claims of a turn and consolidate them; idempotent. None: the turn was deleted."""
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
            log.warning("no claims are extracted from a turn: %s", found.failed)
        own = [item for item in found.items if (item.source or "").startswith(f"{request_id}:")]
        if own:
            self._consolidator.take(principal, own, origin="chat:fine")
        return found


def _turn(items: list[Item], request_id: str) -> list[Item]:
    """Items of the turn, and those before it as context."""
    found = [i for i, item in enumerate(items) if (item.source or "").startswith(f"{request_id}:")]
    if not found:
        return []
    return items[max(0, found[0] - _BEFORE) : found[-1] + 1]
