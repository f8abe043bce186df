"""Extraction of claims by a model, in the background, after a turn became memory (`reader.mode`).

Its claims are consolidated like those of the rules; where the model fails, the turn itself remains.
Turns of a session that wait at the same time are read by one request.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from memos_vllm import metrics
from memos_vllm.cube.model import Item
from memos_vllm.errors import DamagedPayload, NotFound, Unavailable
from memos_vllm.governance.principal import Principal
from memos_vllm.learning.beliefs import BeliefReader
from memos_vllm.learning.consolidate import Consolidator
from memos_vllm.learning.examine import ReaderStatus
from memos_vllm.plaintext.claims.fold import Retired
from memos_vllm.plaintext.reader.by_model import Extraction, read_fine
from memos_vllm.plaintext.reader.judge import ModelJudge
from memos_vllm.prompt.quoting import Escape
from memos_vllm.writer.base import Writer

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

log = logging.getLogger(__name__)
_BEFORE = 2
"""Items of the conversation shown before the turn as context: to what "yes" refers."""
_MOST_REMEMBERED = 10_000
FINE = ReaderStatus("fine", "model", "`reader.mode` is fine", ("alone",))


def subject_of(cube: str, request_id: str) -> str:
    """Subject of a `read` job: ids, never text."""
    return f"{cube}:{request_id}"


class Extractor:
    def __init__(
        self,
        system: MemorySystem,
        writer: Writer,
        escape: Escape,
        reads: Callable[[], ReaderStatus] = lambda: FINE,
        continues: Callable[[str, Sequence[str]], bool] | None = None,
    ) -> None:
        """Extractor by a writer.

        Args:
            escape: breaks up the tokenizer's control strings in shown text.
            reads: whether the model reads, and with which prompts.
            continues: whether the writer can continue the conversation of a request (by its id), which
                has these user messages.
        """
        self._system, self._writer, self._escape = system, writer, escape
        self._reads, self._continues = reads, continues
        self._consolidator = Consolidator(system)
        self._beliefs, self._judge = BeliefReader(system), ModelJudge(writer, escape)
        self._ahead: OrderedDict[str, None] = OrderedDict()
        """Subjects whose turns were read with an earlier one's."""

    @property
    def reads(self) -> bool:
        """Whether the model reads turns now."""
        return self._reads().reads == "model"

    def read(self, subject: str) -> Extraction | None:
        """Extract the claims of a turn, and of those of its session that wait behind it.

        Idempotent. None: the turn was deleted or read before, or the model does not read.
        """
        cube, _, request_id = subject.partition(":")
        principal = self._system.knowledge.owner(cube)
        if principal is None or not self.reads or subject in self._ahead:
            self._ahead.pop(subject, None)
            return None
        try:
            items = self._system.vault.get(principal, cube).items
        except (NotFound, DamagedPayload):
            return None
        turns = _turns(items, request_id, self._system.config.reader.batch)
        ids, after = self._chosen(turns, items, principal.person)
        shown = _shown(items, ids, 0 if after is not None else _BEFORE)
        if after is None and not self._may("alone"):
            log.info("a turn is not read: its conversation is no longer in the prefix cache")
            metrics.EXTRACTIONS.labels("gone").inc()
            return None
        known = [each.item for each in self._system.knowledge.claims(principal)]
        found = read_fine(shown, principal.person, self._writer, self._escape, known, after)
        metrics.EXTRACTIONS.labels("failed" if found.failed else "read").inc(max(1, len(ids)))
        metrics.CLAIMS.labels("unsupported").inc(found.dropped)
        if found.failed:
            log.warning("no claims are extracted from a turn: %s", found.failed)
        own = [item for item in found.items if _request(item) in ids]
        retired = self._retired(principal, [i for i in items if _request(i) in ids], own)
        if own or retired:
            self._consolidator.take(principal, own, origin="chat:fine", retired=retired)
        self._note([subject_of(cube, each) for each in ids if each != request_id])
        return found

    def _retired(
        self, principal: Principal, turn: Sequence[Item], claims: Sequence[Item]
    ) -> list[Retired]:
        """Older statements that the turn replaces, where the model may judge changes."""
        if not self._reads().judges:
            return []
        try:
            return self._beliefs.changes(principal, turn, claims, self._judge)
        except Unavailable as error:
            log.warning("changes of a turn are judged without the model: %s", error)
            return []

    def _chosen(
        self, turns: Sequence[str], items: Sequence[Item], person: str
    ) -> tuple[list[str], str | None]:
        """(ids of the turns to read together, id of the request whose conversation is continued).

        The newest turn whose conversation has the words of all turns before it; None: no such
        conversation is in the prefix cache.
        """
        if self._continues is not None and self._may("continued"):
            for last in range(len(turns), 0, -1):
                ids = turns[:last]
                said = [i.text for i in items if _request(i) in ids and i.speaker == person]
                if said and self._continues(ids[-1], said):
                    return list(ids), ids[-1]
        return list(turns), None

    def _may(self, form: str) -> bool:
        return form in self._reads().forms

    def _note(self, subjects: Sequence[str]) -> None:
        for subject in subjects:
            self._ahead[subject] = None
        while len(self._ahead) > _MOST_REMEMBERED:
            self._ahead.popitem(last=False)


def _request(item: Item) -> str:
    return (item.source or "").rpartition(":")[0]


def _turns(items: Sequence[Item], request_id: str, most: int) -> list[str]:
    """Ids of the turn's request and of those behind it in its session, in order."""
    ids = list(dict.fromkeys(_request(item) for item in items))
    if request_id not in ids:
        return []
    start = ids.index(request_id)
    return ids[start : start + most]


def _shown(items: Sequence[Item], ids: Sequence[str], before: int) -> list[Item]:
    """Items of the turns, and those before them as context."""
    found = [i for i, item in enumerate(items) if _request(item) in ids]
    if not found:
        return []
    return list(items[max(0, found[0] - before) : found[-1] + 1])
